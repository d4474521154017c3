"""Several processes train one model, one on each GPU.

ranks           which process this is, and what they tell one another
launch          as many as a machine has GPUs, started and followed
watch           a rank that dies or hangs ends the run, and is named
"""
