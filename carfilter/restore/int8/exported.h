// What every file of the library begins with: the C library's headers, and how it exports
// and fetches.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED
#endif

// Fetch bytes that are needed soon: of so many planes at a time a processor does not by itself.
static inline void fetch_early(const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i += 64)
        __builtin_prefetch((const char *)bytes + i);
}
