/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of crtos.ko know of each other. */
#ifndef CRTOS_H
#define CRTOS_H

#include <linux/types.h>
#include <linux/mutex.h>

/* shadow.c: the ivshmem shadow channel; called once at module load and unload. */
#ifdef CRTOS_SHADOW
int crtos_shadow_init(void);
void crtos_shadow_exit(void);
#else
static inline int crtos_shadow_init(void) { return 0; }
static inline void crtos_shadow_exit(void) { }
#endif

#endif
