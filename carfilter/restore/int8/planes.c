/* What is done with whole planes beside the network: carfilter/restore/planes.py calls it, and
 * computes the same, bit by bit, where it was not compiled. Plain C, of which compilers make vectors.
 */
#include "exported.h"

enum {
    LINES = 16, /* of a macroblock */
    MARKED = 4, /* pixels to a side of what has one mark; BLOCK of levels.h */
    RUN = 16,   /* pixels of a row that are averaged along motion at a time */
    TILE = 256, /* samples of a row that are averaged at a time: what they need stays in the cache */
};

/* Mark which macroblocks of two planes differ; rows lie `a_row` and `b_row` bytes apart.
 *
 * changed: a byte for each macroblock, whose rows have `block` bytes. */
EXPORTED void carfilter_planes_changed(
    const uint8_t *a, const uint8_t *b, int64_t a_row, int64_t b_row, int height, int bytes,
    int block, uint8_t *changed
) {
    const int blocks = (bytes + block - 1) / block;
    for (int top = 0; top < height; top += LINES, changed += blocks) {
        const int bottom = top + LINES < height ? top + LINES : height;
        memset(changed, 0, (size_t)blocks);
        for (int y = top; y < bottom; y++) {
            const uint8_t *one = a + y * a_row, *other = b + y * b_row;
            int i = 0;
            for (; (i + 1) * block <= bytes; i++) {
                uint64_t apart = 0, p, q;
                for (int at = i * block; at < (i + 1) * block; at += 8) {
                    memcpy(&p, one + at, 8);
                    memcpy(&q, other + at, 8);
                    apart |= p ^ q;
                }
                changed[i] |= apart != 0;
            }
            if (i < blocks)
                changed[i] |= memcmp(one + i * block, other + i * block, (size_t)(bytes - i * block)) != 0;
        }
    }
}

/* Copy the macroblocks that did not change from `last` to `plane`. */
EXPORTED void carfilter_planes_keep(
    uint8_t *plane, const uint8_t *last, int64_t plane_row, int64_t last_row, int height, int bytes,
    int block, const uint8_t *changed
) {
    const int blocks = (bytes + block - 1) / block;
    for (int y = 0; y < height; y++) {
        const uint8_t *marks = changed + (int64_t)(y / LINES) * blocks;
        for (int i = 0; i < blocks; i++) {
            const int at = i * block, end = at + block < bytes ? at + block : bytes;
            if (!marks[i])
                memcpy(plane + y * plane_row + at, last + y * last_row + at, (size_t)(end - at));
        }
    }
}

/* What average() in carfilter/restore/planes.py takes, of pictures in their order. */
typedef struct {
    const void *const *lumas;
    const int64_t *luma_rows;   /* samples */
    const void *const *aparts;  /* rows of `width`; or none, where nothing goes on */
    const float *table;         /* what goes on, for each value in there */
    const float *amounts;       /* of the pictures that come out */
    void *const *averages;      /* theirs; rows of `width` */
    float *past;                /* sums, and `plane` further weights; or none, which are zero */
    int64_t plane;
    int32_t pictures, count, width;
    int32_t zero;               /* the place in the table where nothing goes on */
} Average;

/* What along() in carfilter/restore/follow.py takes. */
typedef struct {
    const void *luma;
    const void *others[2];   /* pictures moved to where this one shows the same, rows of `width` */
    const uint8_t *marks[2]; /* of their blocks of 4x4 pixels, which alone go in; or none */
    const float *table;      /* how much goes in, for each value of how far they are apart */
    void *average;           /* rows of `width` */
    int64_t luma_row;        /* samples */
    int32_t height, width;
    int32_t most;            /* places in the table */
    float amount;            /* of the way to the average */
} Along;

static int smaller(int a, int b) {
    return a < b ? a : b;
}

#define SAMPLE uint8_t
#define SUM uint16_t
#define NAMED(name) name##_8
#include "planes.h"
#undef SAMPLE
#undef SUM
#undef NAMED

#define SAMPLE uint16_t
#define SUM uint32_t
#define NAMED(name) name##_16
#include "planes.h"
