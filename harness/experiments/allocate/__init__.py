"""Into how many segments does a server's traffic split each request's blocks?"""
