/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NSVM_SEGMENTS_H
#define NSVM_SEGMENTS_H

/* What is checked: the segment in bits 2:0, the size less one in bits 7:3, a write in bit 8. */
#define NSVM_SEGMENT_ACCESS(segment, bytes, is_write) ((segment) | ((bytes) - 1) << 3 | (is_write) << 8)

#endif
