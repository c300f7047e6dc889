// The part of move.c that is compiled for samples of each size.

static void NAMED(move_block)(const SAMPLE *reference, int height, int width, int y, int x,
                             const int16_t (*filters)[TAPS], int most, SAMPLE *out)
{
    const int16_t *down = filters[y & (STEPS - 1)], *across = filters[x & (STEPS - 1)];
    const int top = (y >> 4) - 1, left = (x >> 4) - 1;
    SAMPLE around[BLOCK + TAPS - 1][WIDE + TAPS];
    const SAMPLE *at = reference + (intptr_t)top * width + left;
    int row = width;
    if (top < 0 || left < 0 || top + BLOCK + TAPS > height || left + WIDE + TAPS > width) {
        for (int i = 0; i < BLOCK + TAPS - 1; i++)
            for (int j = 0; j < WIDE + TAPS; j++)
                around[i][j] = reference[(intptr_t)clamped(top + i, 0, height - 1) * width +
                                         clamped(left + j, 0, width - 1)];
        at = around[0];
        row = WIDE + TAPS;
    }
#ifdef BY_BLOCKS
    (void)most;
    filter_block(at, row, across, down, out);
#else
    SUM lines[BLOCK + TAPS - 1][WIDE];
    for (int i = 0; i < BLOCK + TAPS - 1; i++, at += row)
        for (int j = 0; j < WIDE; j++)
            lines[i][j] = (SUM)(at[j] * (SUM)across[0] + at[j + 1] * (SUM)across[1] +
                                at[j + 2] * (SUM)across[2] + at[j + 3] * (SUM)across[3]);
    for (int i = 0; i < BLOCK; i++) {
        for (int j = 0; j < BLOCK; j++) {
            const int32_t sum = lines[i][j] * down[0] + lines[i + 1][j] * down[1] +
                                lines[i + 2][j] * down[2] + lines[i + 3][j] * down[3];
            out[i * BLOCK + j] = (SAMPLE)clamped((sum + 2048) >> 12, 0, most);
        }
    }
#endif
}

static int32_t NAMED(apart)(const SAMPLE *one, int one_row, const SAMPLE *other, int other_row,
                           int high, int wide)
{
#ifdef BY_BLOCKS
    if (high == BLOCK && wide == BLOCK)
        return blocks_apart(one, one_row, other, other_row);
#endif
    int32_t sum = 0;
    if (high == BLOCK && wide == BLOCK) {
        for (int i = 0; i < BLOCK; i++, one += one_row, other += other_row)
            for (int j = 0; j < BLOCK; j++)
                sum += __builtin_abs(one[j] - other[j]);
        return sum;
    }
    for (int i = 0; i < high; i++, one += one_row, other += other_row)
        for (int j = 0; j < wide; j++)
            sum += __builtin_abs(one[j] - other[j]);
    return sum;
}

// Fill a row of blocks of `moved` with what the field leads to, and sums with how far each
// block of the picture differs from the reference: as it is, and moved.
static void NAMED(move_row)(const Move *of, int row, int columns, const uint8_t *moving,
                           const uint8_t *near, SAMPLE *moved, int32_t *before, int32_t *after)
{
    const SAMPLE *picture = of->picture, *reference = of->reference;
    const int width = of->width, y = row * BLOCK;
    const int high = of->height - y < BLOCK ? of->height - y : BLOCK;
    const int16_t *vector = of->field + 2 * (intptr_t)row * columns;
    SAMPLE block[BLOCK * BLOCK];
    for (int column = 0; column < columns; column++, vector += 2) {
        if (!near[column]) {
            before[column] = after[column] = 0;
            continue;
        }
        const int x = column * BLOCK, wide = width - x < BLOCK ? width - x : BLOCK;
        const intptr_t at = (intptr_t)y * width + x;
        before[column] = NAMED(apart)(picture + at, width, reference + at, width, high, wide);
        after[column] = before[column];
        if (!moving[column])
            continue;
        NAMED(move_block)(reference, of->height, width, y * STEPS + vector[1],
                         x * STEPS + vector[0], of->filters, of->most, block);
        after[column] = NAMED(apart)(picture + at, width, block, BLOCK, high, wide);
        for (int i = 0; i < high; i++)
            memcpy(moved + at + (intptr_t)i * width, block + i * BLOCK,
                   (size_t)wide * sizeof(SAMPLE));
    }
}

// Fill `moved` with the reference, [H, W], its blocks moved where that makes them like the
// picture, and `moving` with which ones are, [ceil(H/4), ceil(W/4)]. Return whether any is, or -1
// without memory.
EXPORTED int NAMED(carfilter_motion_follow)(const Move *of, uint8_t *moving, SAMPLE *moved)
{
    const int rows = (of->height + BLOCK - 1) / BLOCK, columns = (of->width + BLOCK - 1) / BLOCK;
    const size_t blocks = (size_t)rows * columns;
    int32_t *before = malloc((2 * blocks + 3 * (size_t)columns) * sizeof *before + blocks);
    if (!before)
        return -1;
    int32_t *after = before + blocks, *sums = after + blocks;
    int32_t *around_before = sums + columns, *around_after = around_before + columns;
    uint8_t *near = (uint8_t *)(around_after + columns);
    for (size_t i = 0; i < blocks; i++)
        moving[i] = of->field[2 * i] != 0 || of->field[2 * i + 1] != 0;
    grow(moving, rows, columns, near);
    memcpy(moved, of->reference, (size_t)of->height * (size_t)of->width * sizeof(SAMPLE));
    for (int row = 0; row < rows; row++) {
        const intptr_t at = (intptr_t)row * columns;
        NAMED(move_row)(of, row, columns, moving + at, near + at, moved, before + at, after + at);
    }
    int any = 0;
    for (int row = 0; row < rows; row++, moving += columns) {
        const int high = of->height - row * BLOCK < BLOCK ? of->height - row * BLOCK : BLOCK;
        sum_around(before, row, rows, columns, sums, around_before);
        sum_around(after, row, rows, columns, sums, around_after);
        for (int column = 0; column < columns; column++) {
            if (!moving[column])
                continue;
            if (5 * around_after[column] < 4 * around_before[column] - of->less) {
                any = 1;
                continue;
            }
            moving[column] = 0;
            const int left = of->width - column * BLOCK, wide = left < BLOCK ? left : BLOCK;
            const intptr_t at = (intptr_t)row * BLOCK * of->width + column * BLOCK;
            for (int i = 0; i < high; i++)
                memcpy(moved + at + (intptr_t)i * of->width,
                       (const SAMPLE *)of->reference + at + (intptr_t)i * of->width,
                       (size_t)wide * sizeof(SAMPLE));
        }
    }
    free(before);
    return any;
}
