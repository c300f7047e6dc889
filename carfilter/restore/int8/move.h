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
    int32_t sum = 0;
    for (int i = 0; i < high; i++, one += one_row, other += other_row)
        for (int j = 0; j < wide; j++)
            sum += __builtin_abs(one[j] - other[j]);
    return sum;
}

// Return how far a block of the picture differs from one that was moved.
static int32_t NAMED(moved_apart)(const SAMPLE *one, int row, const SAMPLE *moved, int high,
                                 int wide)
{
    if (high != BLOCK || wide != BLOCK)
        return NAMED(apart)(one, row, moved, BLOCK, high, wide);
#ifdef BY_BLOCKS
    return block_apart(one, row, moved);
#else
    return NAMED(apart)(one, row, moved, BLOCK, BLOCK, BLOCK);
#endif
}

// Fill how far each block in a row of them differs from that of the reference.
static void NAMED(row_apart)(const Move *of, int y, int columns, int32_t *apart)
{
    const SAMPLE *one = (const SAMPLE *)of->picture + (intptr_t)y * of->width;
    const SAMPLE *other = (const SAMPLE *)of->reference + (intptr_t)y * of->width;
    const int row = of->width, high = of->height - y < BLOCK ? of->height - y : BLOCK;
    const int whole = high == BLOCK ? row / BLOCK : 0;
    for (int x = 0; x < whole; x++, one += BLOCK, other += BLOCK) {
        int32_t sum = 0;
        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < BLOCK; j++)
                sum += __builtin_abs(one[i * (intptr_t)row + j] - other[i * (intptr_t)row + j]);
        apart[x] = sum;
    }
    for (int x = whole; x < columns; x++, one += BLOCK, other += BLOCK)
        apart[x] = NAMED(apart)(one, row, other, row, high,
                                row - x * BLOCK < BLOCK ? row - x * BLOCK : BLOCK);
}

// Copy a block to its place.
static void NAMED(put)(const SAMPLE *block, SAMPLE *at, int row, int high, int wide)
{
    if (high == BLOCK && wide == BLOCK) {
        for (int i = 0; i < BLOCK; i++, block += BLOCK, at += row)
            memcpy(at, block, BLOCK * sizeof *at);
        return;
    }
    for (int i = 0; i < high; i++, block += BLOCK, at += row)
        memcpy(at, block, (size_t)wide * sizeof *at);
}

// Fill a row of blocks, [columns, 4, 4], with what the field leads to, and sums with how far each
// block of the picture differs from the reference: as it is, and moved.
static void NAMED(move_row)(const Move *of, int row, int columns, const uint8_t *moving,
                           SAMPLE *found, int32_t *before, int32_t *after)
{
    const SAMPLE *picture = of->picture, *reference = of->reference;
    const int width = of->width, y = row * BLOCK;
    const int high = of->height - y < BLOCK ? of->height - y : BLOCK;
    const int16_t *vector = of->field + 2 * (intptr_t)row * columns;
    NAMED(row_apart)(of, y, columns, before);
    memcpy(after, before, (size_t)columns * sizeof *after);
    for (int column = 0; column < columns; column++, vector += 2, found += BLOCK * BLOCK) {
        if (!moving[column])
            continue;
        const int x = column * BLOCK, wide = width - x < BLOCK ? width - x : BLOCK;
        NAMED(move_block)(reference, of->height, width, y * STEPS + vector[1],
                         x * STEPS + vector[0], of->filters, of->most, found);
        const SAMPLE *at = picture + (intptr_t)y * width + x;
        after[column] = NAMED(moved_apart)(at, width, found, high, wide);
    }
}

// Fill `moved` with the reference, [H, W], its blocks moved where that makes them like the
// picture, and `moving` with which ones are, [ceil(H/4), ceil(W/4)]. Return whether any is, without
// which `moved` stays as it was, or -1 without memory.
EXPORTED int NAMED(carfilter_motion_follow)(const Move *of, uint8_t *moving, SAMPLE *moved)
{
    const int rows = (of->height + BLOCK - 1) / BLOCK, columns = (of->width + BLOCK - 1) / BLOCK;
    const size_t blocks = (size_t)rows * columns, pixels = (size_t)of->height * of->width;
    const size_t each = BLOCK * BLOCK * sizeof(SAMPLE) + 2 * sizeof(int32_t);
    SAMPLE *found = malloc(blocks * each + 3 * (size_t)columns * sizeof(int32_t));
    if (!found)
        return -1;
    int32_t *before = (int32_t *)(found + blocks * BLOCK * BLOCK), *after = before + blocks;
    int32_t *sums = after + blocks, *around_before = sums + columns;
    int32_t *around_after = around_before + columns;
    for (size_t i = 0; i < blocks; i++)
        moving[i] = of->field[2 * i] != 0 || of->field[2 * i + 1] != 0;
    for (int row = 0; row < rows; row++) {
        const intptr_t at = (intptr_t)row * columns;
        NAMED(move_row)(of, row, columns, moving + at, found + at * BLOCK * BLOCK, before + at,
                        after + at);
    }
    int any = 0;
    for (int row = 0; row < rows; row++, moving += columns) {
        const int y = row * BLOCK, high = of->height - y < BLOCK ? of->height - y : BLOCK;
        sum_around(before, row, rows, columns, sums, around_before);
        sum_around(after, row, rows, columns, sums, around_after);
        for (int column = 0; column < columns; column++) {
            moving[column] &= 5 * around_after[column] < 4 * around_before[column];
            if (!moving[column])
                continue;
            if (!any)
                memcpy(moved, of->reference, pixels * sizeof *moved);
            any = 1;
            const int x = column * BLOCK, wide = of->width - x < BLOCK ? of->width - x : BLOCK;
            NAMED(put)(found + ((intptr_t)row * columns + column) * BLOCK * BLOCK,
                      moved + (intptr_t)y * of->width + x, of->width, high, wide);
        }
    }
    free(found);
    return any;
}
