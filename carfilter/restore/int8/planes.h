/* The part of planes.c that is compiled for samples of each size. */

/* Write for each pixel how far two planes are apart around it: the sum of absolute differences times
 * 1-2-1 in both directions, `most` at the most. */
EXPORTED int NAMED(carfilter_planes_apart)(
    const SAMPLE *a, const SAMPLE *b, int64_t a_row, int64_t b_row, int height, int width,
    int most, SUM *apart
) {
    SUM *columns = malloc(((size_t)width + 2) * sizeof *columns);
    if (!columns) return -1;
    for (int y = 0; y < height; y++, apart += width) {
        const int above = y ? y - 1 : 0, below = smaller(y + 1, height - 1);
        const SAMPLE *a0 = a + above * a_row, *a1 = a + y * a_row, *a2 = a + below * a_row;
        const SAMPLE *b0 = b + above * b_row, *b1 = b + y * b_row, *b2 = b + below * b_row;
        for (int x = 0; x < width; x++) {
            const SUM upper = a0[x] > b0[x] ? a0[x] - b0[x] : b0[x] - a0[x];
            const SUM here = a1[x] > b1[x] ? a1[x] - b1[x] : b1[x] - a1[x];
            const SUM lower = a2[x] > b2[x] ? a2[x] - b2[x] : b2[x] - a2[x];
            columns[x + 1] = (SUM)(upper + 2 * here + lower);
        }
        columns[0] = columns[1];
        columns[width + 1] = columns[width];
        for (int x = 0; x < width; x++) {
            const SUM sum = (SUM)(columns[x] + 2 * columns[x + 1] + columns[x + 2]);
            apart[x] = sum < (SUM)most ? sum : (SUM)most;
        }
    }
    free(columns);
    return 0;
}

/* Write `most` over all of `apart` but the blocks of 4x4 pixels that are marked. */
EXPORTED void NAMED(carfilter_planes_mask)(
    SUM *apart, int height, int width, const uint8_t *marks, int most
) {
    const int blocks = (width + MARKED - 1) / MARKED, whole = width / MARKED;
    const SUM same[MARKED] = {(SUM)most, (SUM)most, (SUM)most, (SUM)most};
    for (int y = 0; y < height; y++, apart += width) {
        const uint8_t *row = marks + (int64_t)(y / MARKED) * blocks;
        for (int i = 0; i < whole; i++) {
            SUM block[MARKED];
            memcpy(block, row[i] ? apart + i * MARKED : same, sizeof block);
            memcpy(apart + i * MARKED, block, sizeof block);
        }
        for (int x = whole * MARKED; x < width; x++)
            if (!row[whole]) apart[x] = (SUM)most;
    }
}

/* Say whether LINES numbers are all the one that eight bytes repeat. */
static int NAMED(are_all)(const SUM *numbers, uint64_t repeated) {
    uint64_t apart = 0, some;
    for (int i = 0; i < LINES; i += (int)(sizeof some / sizeof *numbers)) {
        memcpy(&some, numbers + i, sizeof some);
        apart |= some ^ repeated;
    }
    return !apart;
}

/* Fill what goes on from the picture before, for each sample; return whether anything does. */
static int NAMED(goes_on)(
    const Average *of, int picture, int64_t at, int width, float *restrict link
) {
    if (!of->aparts[picture]) return 0;
    const SUM *apart = (const SUM *)of->aparts[picture] + at;
    fetch_early(apart + width, TILE * sizeof *apart); /* of the next tile, or the next row's first */
    const uint64_t none = (uint64_t)-1 / (SUM)-1 * (SUM)of->zero;
    int any = 0, x = 0;
    /* Few samples need a look at the table: a fixed camera sees the same again, and of what moves
     * little goes on. */
    for (; x + LINES <= width; x += LINES) {
        const int equal = NAMED(are_all)(apart + x, 0);
        if (equal || NAMED(are_all)(apart + x, none)) {
            const float same = of->table[equal ? 0 : of->zero];
            for (int i = 0; i < LINES; i++) link[x + i] = same;
            any |= equal;
            continue;
        }
        for (int i = 0; i < LINES; i++) link[x + i] = of->table[apart[x + i]];
        any = 1;
    }
    for (; x < width; x++) {
        link[x] = of->table[apart[x]];
        any |= apart[x] != (SUM)of->zero;
    }
    return any;
}

/* Average columns of row y, `width` of them from `left` on.
 *
 * after: room for what comes after each picture that comes out, [count][2][TILE].
 * links: room for what goes on to each picture from the one before, [pictures][TILE].
 * linked: room for whether anything goes on to each picture, [pictures + 1]. */
static void NAMED(average)(
    const Average *of, int y, int left, int width, float *after, float *links, uint8_t *linked
) {
    float later[2][TILE], none[2][TILE];
    const int64_t at = (int64_t)y * of->width + left;
    float *restrict sum = of->past ? of->past + at : none[0];
    float *restrict weight = of->past ? sum + of->plane : none[1];
    if (!of->past) memset(none, 0, sizeof none);
    linked[of->pictures] = 0;
    for (int i = of->pictures - 1; i >= 0; i--) {
        const SAMPLE *luma = (const SAMPLE *)of->lumas[i] + y * of->luma_rows[i] + left;
        float *restrict link = links + (int64_t)i * TILE;
        const SAMPLE *next = left + width < of->width ? luma + width : luma + of->luma_rows[i] - left;
        fetch_early(next, TILE * sizeof *luma);
        if (!linked[i + 1]) memset(later, 0, sizeof later);
        if (i < of->count) memcpy(after + (int64_t)i * 2 * TILE, later, sizeof later);
        linked[i] = (uint8_t)NAMED(goes_on)(of, i, at, width, link);
        if (!linked[i]) continue;
        for (int x = 0; x < width; x++) {
            later[0][x] = (later[0][x] + (float)luma[x]) * link[x];
            later[1][x] = (later[1][x] + 1) * link[x];
        }
    }
    for (int i = 0; i < of->count; i++) {
        const SAMPLE *luma = (const SAMPLE *)of->lumas[i] + y * of->luma_rows[i] + left;
        const float *link = links + (int64_t)i * TILE, amount = of->amounts[i];
        const float *coming = after + (int64_t)i * 2 * TILE;
        SAMPLE *restrict out = (SAMPLE *)of->averages[i] + at;
        if (linked[i]) {
            for (int x = 0; x < width; x++) {
                sum[x] = sum[x] * link[x] + (float)luma[x];
                weight[x] = weight[x] * link[x] + 1;
            }
        } else {
            for (int x = 0; x < width; x++) {
                sum[x] = (float)luma[x];
                weight[x] = 1;
            }
        }
        /* Of itself alone, or none of the way to its average, a picture stays what it is. */
        if (amount == 0 || (!linked[i] && !linked[i + 1])) {
            memcpy(out, luma, (size_t)width * sizeof *out);
            continue;
        }
        for (int x = 0; x < width; x++) {
            const float own = (float)luma[x];
            const float mean = (coming[x] + sum[x]) / (coming[TILE + x] + weight[x]);
            out[x] = (SAMPLE)(int)__builtin_rintf((mean - own) * amount + own);
        }
    }
}

/* Fill rows top to bottom of the averages; 0, or -1 without memory. */
EXPORTED int NAMED(carfilter_planes_average)(const Average *of, int top, int bottom) {
    const size_t rows = (size_t)of->count * 2 + (size_t)of->pictures;
    float *after = malloc(rows * TILE * sizeof *after + (size_t)of->pictures + 1);
    if (!after) return -1;
    float *links = after + (int64_t)of->count * 2 * TILE;
    uint8_t *linked = (uint8_t *)(links + (int64_t)of->pictures * TILE);
    for (int y = top; y < bottom; y++)
        for (int left = 0; left < of->width; left += TILE)
            NAMED(average)(of, y, left, smaller(TILE, of->width - left), after, links, linked);
    free(after);
    return 0;
}

/* Fill `rows` with three rows of samples around (x, y), from the one left of x on, so many as a run
 * needs; beyond the plane its border repeats. */
static void NAMED(rows_around)(
    const SAMPLE *plane, int64_t row, int height, int width, int y, int x,
    SAMPLE kept[3][RUN + 2], const SAMPLE *rows[3]
) {
    for (int i = 0; i < 3; i++) {
        const int line = y + i - 1 < 0 ? 0 : smaller(y + i - 1, height - 1);
        const SAMPLE *at = plane + line * row;
        rows[i] = at + x - 1;
        if (x && x + RUN < width) continue;
        for (int j = 0; j < RUN + 2; j++)
            kept[i][j] = at[x + j - 1 < 0 ? 0 : smaller(x + j - 1, width - 1)];
        rows[i] = kept[i];
    }
}

/* Fill how much of another picture goes into each of a run of pixels. */
static void NAMED(shares)(const Along *of, int which, int y, int x, float share[RUN]) {
    const uint8_t *marks = of->marks[which];
    const int blocks = (of->width + MARKED - 1) / MARKED, count = smaller(RUN, of->width - x);
    SAMPLE kept[2][3][RUN + 2];
    const SAMPLE *a[3], *b[3];
    SUM columns[RUN + 2];
    NAMED(rows_around)(of->luma, of->luma_row, of->height, of->width, y, x, kept[0], a);
    NAMED(rows_around)(of->others[which], of->width, of->height, of->width, y, x, kept[1], b);
    for (int i = 0; i < RUN + 2; i++) {
        const SUM upper = a[0][i] > b[0][i] ? a[0][i] - b[0][i] : b[0][i] - a[0][i];
        const SUM here = a[1][i] > b[1][i] ? a[1][i] - b[1][i] : b[1][i] - a[1][i];
        const SUM lower = a[2][i] > b[2][i] ? a[2][i] - b[2][i] : b[2][i] - a[2][i];
        columns[i] = (SUM)(upper + 2 * here + lower);
    }
    marks += (int64_t)(y / MARKED) * blocks + x / MARKED;
    for (int i = 0; i < count; i++) {
        const SUM sum = (SUM)(columns[i] + 2 * columns[i + 1] + columns[i + 2]);
        share[i] = marks[i / MARKED] ? of->table[smaller((int)sum, of->most - 1)] : 0;
    }
}

/* Say whether another picture goes into any of a run of pixels. */
static int NAMED(goes_in)(const Along *of, int which, int y, int x) {
    if (!of->marks[which]) return 0;
    const int blocks = (of->width + MARKED - 1) / MARKED;
    const uint8_t *row = of->marks[which] + (int64_t)(y / MARKED) * blocks;
    const int end = smaller(blocks, (x + RUN) / MARKED);
    int any = 0;
    for (int i = x / MARKED; i < end; i++) any |= row[i];
    return any;
}

/* Fill a picture with its averages with those before and after; what carfilter_planes_average()
 * makes of the three, with the same roundings. */
EXPORTED void NAMED(carfilter_planes_along)(const Along *of) {
    for (int y = 0; y < of->height; y++) {
        const SAMPLE *luma = (const SAMPLE *)of->luma + y * of->luma_row;
        SAMPLE *out = (SAMPLE *)of->average + (int64_t)y * of->width;
        memcpy(out, luma, (size_t)of->width * sizeof *out);
        for (int x = 0; x < of->width; x += RUN) {
            const int in[2] = {NAMED(goes_in)(of, 0, y, x), NAMED(goes_in)(of, 1, y, x)};
            if (!in[0] && !in[1]) continue;
            const int count = smaller(RUN, of->width - x);
            const int64_t at = (int64_t)y * of->width + x;
            float sum[RUN], weight[RUN], share[RUN];
            for (int i = 0; i < count; i++) {
                sum[i] = (float)luma[x + i];
                weight[i] = 1;
            }
            for (int which = 0; which < 2; which++) {
                if (!in[which]) continue;
                const SAMPLE *other = (const SAMPLE *)of->others[which] + at;
                NAMED(shares)(of, which, y, x, share);
                for (int i = 0; i < count; i++) {
                    sum[i] = (float)other[i] * share[i] + sum[i];
                    weight[i] = share[i] + weight[i];
                }
            }
            for (int i = 0; i < count; i++) {
                const float own = (float)luma[x + i], mean = sum[i] / weight[i];
                out[x + i] = (SAMPLE)(int)__builtin_rintf((mean - own) * of->amount + own);
            }
        }
    }
}
