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

// Fill how far each block in a part of a row of them differs from that of the reference.
static void NAMED(row_apart)(const Move *of, int y, Range part, int32_t *apart)
{
    const int row = of->width, high = of->height - y < BLOCK ? of->height - y : BLOCK;
    const intptr_t at = (intptr_t)y * row + (intptr_t)part.from * BLOCK;
    const SAMPLE *one = (const SAMPLE *)of->picture + at;
    const SAMPLE *other = (const SAMPLE *)of->reference + at;
    int whole = high == BLOCK ? row / BLOCK : 0;
    whole = whole < part.from ? part.from : whole < part.to ? whole : part.to;
    int x = part.from;
#ifdef BY_BLOCKS
    for (; x + 8 <= whole; x += 8, one += 8 * BLOCK, other += 8 * BLOCK)
        eight_apart(one, other, row, apart + x);
#endif
    for (; x < whole; x++, one += BLOCK, other += BLOCK) {
        int32_t sum = 0;
        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < BLOCK; j++)
                sum += __builtin_abs(one[i * (intptr_t)row + j] - other[i * (intptr_t)row + j]);
        apart[x] = sum;
    }
    for (; x < part.to; x++, one += BLOCK, other += BLOCK)
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

// What is known of a row of blocks: how far each differs from the reference as it is, and moved; and
// what its vector leads to, [columns, 4, 4].
typedef struct {
    int32_t *before, *after;
    SAMPLE *found;
} NAMED(Line);

static void NAMED(move_line)(const Move *of, int row, int columns, Range part,
                            const uint8_t *moving, const NAMED(Line) *line)
{
    const SAMPLE *picture = of->picture, *reference = of->reference;
    const int width = of->width, y = row * BLOCK;
    const int high = of->height - y < BLOCK ? of->height - y : BLOCK;
    const int16_t *vectors = of->field + 2 * (intptr_t)row * columns;
    NAMED(row_apart)(of, y, part, line->before);
    memcpy(line->after + part.from, line->before + part.from,
           (size_t)(part.to - part.from) * sizeof *line->after);
    for (int column = part.from; column < part.to; column++) {
        if (!moving[column])
            continue;
        const int x = column * BLOCK, wide = width - x < BLOCK ? width - x : BLOCK;
        const int16_t *vector = vectors + 2 * column;
        SAMPLE *found = line->found + column * BLOCK * BLOCK;
        NAMED(move_block)(reference, of->height, width, y * STEPS + vector[1],
                         x * STEPS + vector[0], of->filters, of->most, found);
        const SAMPLE *at = picture + (intptr_t)y * width + x;
        line->after[column] = NAMED(moved_apart)(at, width, found, high, wide);
    }
}

// Put the blocks of a row in their places that are like the picture there, and leave marks at these
// alone; copy the whole reference before the first. `sums` has room for three of each column.
static int NAMED(take_row)(const Move *of, int row, int columns, Range part,
                          const NAMED(Line) *const lines[3], int32_t *sums, int any,
                          uint8_t *moving, SAMPLE *moved)
{
    const int y = row * BLOCK, high = of->height - y < BLOCK ? of->height - y : BLOCK;
    int32_t *before = sums + columns, *after = before + columns;
    const int32_t *as_is[3] = {lines[0]->before, lines[1]->before, lines[2]->before};
    const int32_t *with[3] = {lines[0]->after, lines[1]->after, lines[2]->after};
    sum_around(as_is, part, columns, sums, before);
    sum_around(with, part, columns, sums, after);
    for (int column = part.from; column < part.to; column++) {
        moving[column] &= 5 * after[column] < 4 * before[column];
        if (!moving[column])
            continue;
        if (!any)
            memcpy(moved, of->reference, (size_t)of->height * of->width * sizeof *moved);
        any = 1;
        const int x = column * BLOCK, wide = of->width - x < BLOCK ? of->width - x : BLOCK;
        NAMED(put)(lines[1]->found + column * BLOCK * BLOCK,
                  moved + (intptr_t)y * of->width + x, of->width, high, wide);
    }
    return any;
}

// Fill `moved` with the reference, [H, W], its blocks moved where that makes them like the
// picture, and `moving` with which ones are, [ceil(H/4), ceil(W/4)]. Return whether any is, without
// which `moved` stays as it was, or -1 without memory.
EXPORTED int NAMED(carfilter_motion_follow)(const Move *of, uint8_t *moving, SAMPLE *moved)
{
    const int rows = (of->height + BLOCK - 1) / BLOCK, columns = (of->width + BLOCK - 1) / BLOCK;
    const size_t found = BLOCK * BLOCK * sizeof(SAMPLE) * columns, sums = sizeof(int32_t) * columns;
    char *memory = malloc(3 * found + 9 * sums + rows * sizeof(Range));
    if (!memory)
        return -1;
    // Three rows are known at a time: they stay in the cache.
    NAMED(Line) kept[3];
    for (int i = 0; i < 3; i++) {
        kept[i].found = (SAMPLE *)(memory + i * found);
        kept[i].before = (int32_t *)(memory + 3 * found + 2 * i * sums);
        kept[i].after = kept[i].before + columns;
    }
    int32_t *rest = (int32_t *)(memory + 3 * found + 6 * sums);
    Range *parts = (Range *)(rest + 3 * columns);
    for (int row = 0; row < rows; row++) {
        const intptr_t at = (intptr_t)row * columns;
        parts[row] = mark_moving(of->field + 2 * at, columns, moving + at);
    }
    int any = 0;
    for (int row = 0; row <= rows; row++) {
        if (row < rows)
            NAMED(move_line)(of, row, columns, needed(parts, row, rows, columns),
                            moving + (intptr_t)row * columns, kept + row % 3);
        const int done = row - 1; // of which both neighbours are known
        if (done < 0 || parts[done].from == parts[done].to)
            continue;
        const NAMED(Line) *lines[3] = {kept + (done ? done - 1 : done) % 3, kept + done % 3,
                                       kept + (row < rows ? row : done) % 3};
        any = NAMED(take_row)(of, done, columns, parts[done], lines, rest, any,
                             moving + (intptr_t)done * columns, moved);
    }
    free(memory);
    return any;
}
