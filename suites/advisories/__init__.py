"""Advisories: what each of them was about, asked of nested SVM, so that the answer tells an L0 that has the bug."""
