"""The reference machine as a build: QEMU's source, our hooks in it, and what comes of them.

reference_machine/ has what goes in, and says how a feature is added. Nothing here knows a clause or a suite.
"""
