"""The networks of the megasam engine, one file each: definition only, no files on disk."""
