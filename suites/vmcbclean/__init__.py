"""VMCB state caching: the clean bits at 0C0h, what stands behind each, what is never cached, and a CPU without them."""
