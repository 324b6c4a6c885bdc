local meta = reserve(request)
finish()
return leases(meta)
