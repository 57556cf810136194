"""What is in memory at which moment of a job?"""
