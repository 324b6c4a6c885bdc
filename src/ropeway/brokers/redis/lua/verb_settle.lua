local answers = settle(segments, ARGV, 3)
finish()
return encode(answers)
