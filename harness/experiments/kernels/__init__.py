"""How fast are attention kernels on contiguous and on fragmented K and V?"""
