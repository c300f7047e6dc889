/* rows.c for networks of 32 channels.
 *
 * Not on matrix units: a position takes a row of their tiles, 64 bytes, with 32 channels as with 48.
 */
#if !defined __AMX_INT8__ && !defined __AMXINT8__
#define CHANNELS 32
#include "rows.c"
#endif
