"""What commands print: aligned tables for people, JSON for programs."""
