/* Writes blocks of a Hessian with their mirror images; see scatter.py. T is float or double, INDEX an integer as wide.

   A block has the entries (i, j, p, q) of the outputs i and inputs j of one affine map, and p and q of another. The
   parameter of output i and input j is entry start[j] + i * step[j] of theta. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define LINE 64 /* bytes in which memory is written */
#define EACH (LINE / (int64_t)sizeof(T))
#define SCRATCH 1000000 /* bytes that are arranged at once, in the second-level cache */
#define SQUARE 4        /* of numbers that are transposed in registers */

/* Inputs from `first` on whose entries are neighbours in theta: start + output * step, and those after it. */
typedef struct {
    int64_t first, count, start, step;
} Run;

/* The parameters of some inputs of an affine map. */
typedef struct {
    int64_t inputs;
    const int64_t *start, *step;
} Places;

/* The rows that are written, from index `top` on, `ld` apart. With `add`, entries are added to what is there. */
typedef struct {
    T *rows;
    int64_t ld, top, add;
} Target;

static int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }

static int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }

/* The runs of inputs from j0 to j1; returns how many there are. */
static int64_t find_runs(Run *runs, const Places *x, int64_t j0, int64_t j1) {
    int64_t found = 0;
    for (int64_t j = j0; j < j1; j++) {
        Run *last = runs + found - 1;
        if (found && last->step == x->step[j] && last->start + last->count == x->start[j])
            last->count++;
        else
            runs[found++] = (Run){j, 1, x->start[j], x->step[j]};
    }
    return found;
}

/* Write neighbouring entries. Whole lines bypass the cache, which would have to read them from memory first. */
static void emit(T *to, const T *from, int64_t count, int64_t add) {
    if (add) {
        for (int64_t k = 0; k < count; k++) to[k] += from[k];
        return;
    }
#ifdef __SSE2__
    int64_t before = (int64_t)(-(uintptr_t)to % LINE / sizeof(T));
    if (count >= before + 2 * EACH) {
        memcpy(to, from, before * sizeof(T));
        for (to += before, from += before, count -= before; count >= EACH; to += EACH, from += EACH, count -= EACH)
            for (int k = 0; k < LINE / 16; k++)
                _mm_stream_si128((__m128i *)to + k, _mm_loadu_si128((const __m128i *)from + k));
    }
#endif
    memcpy(to, from, count * sizeof(T));
}

/* Write, for one output, the rows of inputs j0 to j1 against some outputs and the inputs of `runs`. The entries of two of
   these inputs j are by_j apart, of two outputs by_p, and of two inputs in the columns 1. `line` has room for a row. */
static void write_rows(const Target *target, T *line, const Places *x, int64_t i, int64_t j0, int64_t j1, int64_t p0,
                       int64_t outputs, const Run *runs, int64_t count, const T *entries, int64_t by_j, int64_t by_p) {
    for (int64_t j = j0; j < j1; j++, entries += by_j) {
        T *row = target->rows + (x->start[j] + i * x->step[j] - target->top) * target->ld;
        for (const Run *run = runs; run < runs + count; run++) {
            const T *from = entries + run->first - runs->first;
            T *to = row + run->start + p0 * run->step;
            if (run->count != run->step) {
                for (int64_t p = 0; p < outputs; p++) emit(to + p * run->step, from + p * by_p, run->count, target->add);
                continue;
            }
            for (int64_t p = 0; p < outputs; p++) /* the outputs are neighbours too */
                memcpy(line + p * run->count, from + p * by_p, run->count * sizeof(T));
            emit(to, line, outputs * run->count, target->add);
        }
    }
}

typedef T Vector __attribute__((vector_size(SQUARE * sizeof(T)), aligned(sizeof(T)), may_alias));
typedef INDEX Lanes __attribute__((vector_size(SQUARE * sizeof(T))));
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Lanes){__VA_ARGS__})
#endif

static inline void transpose_square(T *to, int64_t by_to, const T *from, int64_t by_from) {
    Vector a = *(const Vector *)from, b = *(const Vector *)(from + by_from);
    Vector c = *(const Vector *)(from + 2 * by_from), d = *(const Vector *)(from + 3 * by_from);
    Vector ac = SHUFFLE(a, c, 0, 4, 1, 5), bd = SHUFFLE(b, d, 0, 4, 1, 5);
    *(Vector *)to = SHUFFLE(ac, bd, 0, 4, 1, 5);
    *(Vector *)(to + by_to) = SHUFFLE(ac, bd, 2, 6, 3, 7);
    ac = SHUFFLE(a, c, 2, 6, 3, 7), bd = SHUFFLE(b, d, 2, 6, 3, 7);
    *(Vector *)(to + 2 * by_to) = SHUFFLE(ac, bd, 0, 4, 1, 5);
    *(Vector *)(to + 3 * by_to) = SHUFFLE(ac, bd, 2, 6, 3, 7);
}

/* to[y, x] = from[x, y], only for y >= x where it is the lower triangle of a symmetric matrix. */
static void transpose(T *to, int64_t by_to, const T *from, int64_t by_from, int64_t rows, int64_t columns, int lower) {
    for (int64_t c = 0; c < columns; c += SQUARE)
        for (int64_t r = 0; r < (lower ? c + 1 : rows); r += SQUARE)
            if (r + SQUARE <= rows && c + SQUARE <= columns && !(lower && r == c))
                transpose_square(to + c * by_to + r, by_to, from + r * by_from + c, by_from);
            else
                for (int64_t y = c; y < least(columns, c + SQUARE); y++)
                    for (int64_t x = r; x < least(lower ? y : rows, r + SQUARE); x++)
                        to[y * by_to + x] = from[x * by_from + y];
}

/* How many outputs i and as many p are arranged at once, whose blocks have so many entries. */
static int64_t at_once(int64_t entries) {
    int64_t found = 1;
    while (found < 16 && (found + 1) * (found + 1) * entries * (int64_t)sizeof(T) <= SCRATCH) found++;
    return found;
}

/* Write a block, given as entries (i, p, j, q) with these strides, of which the last is 1, for the outputs from i0 and p0
   on. For p from `mirrored` on, its mirror image (p, q, i, j) is written too. Returns 0 where memory is short. */
int scatter(T *out, int64_t ld, int64_t top, int64_t add, const T *entries, int64_t by_i, int64_t by_p, int64_t by_j,
            int64_t i0, int64_t outputs_i, int64_t p0, int64_t outputs_p, int64_t mirrored, int64_t inputs_j,
            const int64_t *start_j, const int64_t *step_j, int64_t inputs_q, const int64_t *start_q,
            const int64_t *step_q) {
    const Target target = {out, ld, top, add};
    const Places x = {inputs_j, start_j, step_j}, y = {inputs_q, start_q, step_q};
    int64_t size = inputs_j * inputs_q, edge = at_once(size), complete = 1;
#pragma omp parallel
    {
        Run *runs_j = malloc(inputs_j * sizeof(Run)), *runs_q = malloc(inputs_q * sizeof(Run));
        T *turned = malloc(edge * size * sizeof(T)), *line = malloc(edge * most(inputs_j, inputs_q) * sizeof(T));
        int here = runs_j && runs_q && turned && line;
        int64_t count_j = here ? find_runs(runs_j, &x, 0, inputs_j) : 0;
        int64_t count_q = here ? find_runs(runs_q, &y, 0, inputs_q) : 0;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t i1 = 0; i1 < outputs_i; i1 += edge)
            for (int64_t p1 = 0; p1 < outputs_p; p1 += edge) {
                if (!here) {
                    complete = 0;
                    continue;
                }
                int64_t i2 = least(i1 + edge, outputs_i), p2 = least(p1 + edge, outputs_p);
                for (int64_t i = i1; i < i2; i++)
                    write_rows(&target, line, &x, i0 + i, 0, inputs_j, p0 + p1, p2 - p1, runs_q, count_q,
                               entries + i * by_i + p1 * by_p, by_j, by_p);
                for (int64_t p = most(p1, mirrored - p0); p < p2; p++) {
                    for (int64_t i = i1; i < i2; i++)
                        transpose(turned + (i - i1) * size, inputs_j, entries + i * by_i + p * by_p, by_j, inputs_j,
                                  inputs_q, 0);
                    write_rows(&target, line, &y, p0 + p, 0, inputs_q, i0 + i1, i2 - i1, runs_j, count_j, turned,
                               inputs_j, size);
                }
            }
#ifdef __SSE2__
        _mm_sfence();
#endif
        free(runs_j), free(runs_q), free(turned), free(line);
    }
    return complete;
}

/* Write a block that is symmetric in i and p and in j and q: for i from i0 to i1 and p from i on, j from j0 to j1 and q
   from j on, and all their mirror images. The entries (k, l) are those of pairs k = (i, p) and l = (j, q), of which the
   second index changes faster; two k are by_pair apart. Returns 0 where memory is short. */
int scatter_symmetric(T *out, int64_t ld, int64_t top, int64_t add, const T *entries, int64_t by_pair, int64_t i0,
                      int64_t i1, int64_t outputs, int64_t j0, int64_t j1, int64_t inputs, const int64_t *start,
                      const int64_t *step) {
    const Target target = {out, ld, top, add};
    const Places x = {inputs, start, step};
    int64_t height = j1 - j0, width = inputs - j0, rest = inputs - j1; /* q beyond j1 are mirrored apart */
    int64_t size = height * width, edge = at_once(size + height * rest), complete = 1;
#pragma omp parallel
    {
        Run *runs_q = malloc(width * sizeof(Run)), *runs_j = malloc(height * sizeof(Run));
        T *whole = malloc(edge * edge * size * sizeof(T)), *line = malloc(edge * width * sizeof(T));
        T *turned = malloc((edge * edge * height * rest + 1) * sizeof(T));
        int here = runs_q && runs_j && whole && turned && line;
        int64_t count_q = here ? find_runs(runs_q, &x, j0, inputs) : 0;
        int64_t count_j = here ? find_runs(runs_j, &x, j0, j1) : 0;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t a = i0; a < i1; a += edge)
            for (int64_t c = i0; c < outputs; c += edge) {
                if (!here) {
                    complete = 0;
                    continue;
                }
                int64_t b = least(a + edge, i1), d = least(c + edge, outputs); /* i from a to b, p from c to d */
                for (int64_t i = a; i < b; i++) {
                    int64_t first = most(c, i), at = (i - a) * edge + first - c;
                    for (int64_t p = first; p < d; p++) {
                        int64_t k = (i - i0) * (outputs - i0) - (i - i0) * (i - i0 + 1) / 2 + p - i0;
                        T *block = whole + ((i - a) * edge + p - c) * size;
                        const T *from = entries + k * by_pair;
                        for (int64_t j = 0; j < height; from += width - j, j++)
                            memcpy(block + j * width + j, from, (width - j) * sizeof(T));
                        transpose(block, width, block, width, height, height, 1);
                        transpose(turned + ((i - a) * edge + p - c) * height * rest, height, block + height, width,
                                  height, rest, 0);
                    }
                    if (first >= d) continue;
                    write_rows(&target, line, &x, i, j0, j1, first, d - first, runs_q, count_q, whole + at * size, width,
                               size);
                    write_rows(&target, line, &x, i, j1, inputs, first, d - first, runs_j, count_j,
                               turned + at * height * rest, height, height * rest);
                }
                for (int64_t p = c; p < d; p++) {
                    int64_t last = least(b, p), at = p - c; /* only i before p */
                    if (last <= a) continue;
                    write_rows(&target, line, &x, p, j0, j1, a, last - a, runs_q, count_q, whole + at * size, width,
                               edge * size);
                    write_rows(&target, line, &x, p, j1, inputs, a, last - a, runs_j, count_j,
                               turned + at * height * rest, height, edge * height * rest);
                }
            }
#ifdef __SSE2__
        _mm_sfence();
#endif
        free(runs_q), free(runs_j), free(whole), free(turned), free(line);
    }
    return complete;
}
