"""Several processes train one model, one on each GPU.

    ranks           which process this is, and what they tell one another
"""
