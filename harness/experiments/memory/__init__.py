"""What occupies memory at each stage of a job?"""
