/* rows.c for networks of 32 channels. */
#define CHANNELS 32
#include "rows.c"
