"""What a test set and did, in words: the VMCB, memory, L1's steps, code. For failures, and for `nsvm show`."""
