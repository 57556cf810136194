"""What do attention kernels take on contiguous and on fragmented K and V?"""
