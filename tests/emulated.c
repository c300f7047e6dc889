/* The restore() that rows.c exports as a program, to be run by an emulator of another kind of CPU: network,
 * picture and what they point at come from stdin (emulation.py), what is restored goes to
 * stdout. Both sides have 64 bits, little end first. */
#include "rows.c"

#include <stdio.h>

enum { MEMORIES = 9 + 2 * MOST_MAPS };

static void take(void *memory, int64_t bytes) {
    if (bytes && fread(memory, (size_t)bytes, 1, stdin) != 1) exit(2);
}

int main(void) {
    Network network;
    Picture picture;
    int32_t band[2];
    int64_t bytes[MEMORIES];
    void *memory[MEMORIES];
    take(&network, sizeof network);
    take(&picture, sizeof picture);
    take(band, sizeof band);
    take(bytes, sizeof bytes);
    for (int i = 0; i < MEMORIES; i++) {
        memory[i] = bytes[i] ? malloc((size_t)bytes[i]) : 0;
        take(memory[i], bytes[i]);
    }
    network.weights = memory[0];
    network.offset = memory[1];
    network.equal = memory[2];
    network.scale = memory[3];
    network.bias = memory[4];
    network.rescale = memory[5];
    network.gates = memory[6];
    network.codes = memory[7];
    picture.restored = memory[8];
    for (int i = 0; i < MOST_MAPS; i++) {
        picture.luma[i] = memory[9 + 2 * i];
        picture.qp[i] = memory[10 + 2 * i];
    }
    if (NAMED(carfilter_rows_start)()) return 3;
    if (NAMED(carfilter_rows_restore)(&network, &picture, band[0], band[1])) return 3;
    return fwrite(picture.restored, (size_t)bytes[8], 1, stdout) == 1 ? 0 : 4;
}
