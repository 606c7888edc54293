raise RuntimeError("no such module here")
