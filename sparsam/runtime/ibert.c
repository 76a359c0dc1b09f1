/* An encoder in integers, from token ids to the last norm: quantization/integer_only.py in machine code, bit for bit.
 *
 * Products, their layouts and their exact sums are encoder.c's. A row of eight-bit inputs is kept as the product takes it: as
 * unsigned bytes, 128 more than the integers, where four bytes are multiplied at once (128 times each output's sum of weights is
 * taken off its bias beforehand), else as 16-bit integers. No floating point occurs in this file.
 *
 * Letters: t packed tokens, b sequences, h heads, k head width, d model width, f filters.
 */
#include "encoder.c"

#if GROUP == 4
#define OFFSET 128
#else
#define OFFSET 0
#endif

#define SHARE 50   /* as in quantization/ibert.py */
#define SPREAD 48
#define UNIT 22
#define WIDEST ((1 << 21) - 1)
#define SUM_END 32767

typedef int64_t lvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t ishort __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint8_t ibyte __attribute__((vector_size(LANES), aligned(1), may_alias));

struct factor { int32_t m, e; };

struct iproduct {
    const int8_t *weight;        /* panels */
    const int32_t *bias, *m;     /* (outputs, to whole panels) */
    int64_t inputs, outputs;
    int32_t e, end;
};

struct inorm {
    const int32_t *g;
    const int64_t *b;
    int64_t eps;
    int32_t e, end;
    struct factor out;
    int32_t width, spare;
};

struct igelu { int32_t b, c, shift, one; struct factor out; };

struct ilayer {
    struct iproduct q, k, v, o, up, down;
    struct inorm attention, ffn;
    const uint8_t *table;        /* (256) codes of codes; NULL: the polynomial */
    struct igelu gelu;
    struct factor logits, context, o_residual, ffn_residual;
    int32_t heads, width;
};

struct irows { const int8_t *weight; const int32_t *m; int64_t e; };

struct iencoder {
    struct irows words, kinds, positions;
    struct factor sum;
    struct inorm norm;
    const struct ilayer *layers;
    int64_t count;
    int32_t ln2, b, c, lowest, magic, down, probabilities, spare;
};

/* ---- Factors ---------------------------------------------------------------------------------------------------------- */

INLINE int64_t rescaled_one(int64_t q, struct factor by) { return (q * by.m + (INT64_C(1) << (by.e - 1))) >> by.e; }
INLINE int64_t cut(int64_t q, int64_t end) { return q > end ? end : q < -end ? -end : q; }

/* A vector of 32-bit numbers as 64-bit ones: those at even places, and those at odd ones. */
struct wide { lvec even, odd; };

/* Products of the lower halves, signed. */
INLINE lvec halves(lvec a, lvec b) {
#if defined(__AVX512F__) && LANES == 16
    return (lvec)_mm512_mul_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && LANES == 8
    return (lvec)_mm256_mul_epi32((__m256i)a, (__m256i)b);
#else
    return ((a << 32) >> 32) * ((b << 32) >> 32);
#endif
}

INLINE struct wide rescaled(ivec q, ivec m, int e) {
    lvec half = (INT64_C(1) << (e - 1)) - (lvec){};
    struct wide x;
    x.even = (halves((lvec)q, (lvec)m) + half) >> e;
    x.odd = (halves((lvec)q >> 32, (lvec)m >> 32) + half) >> e;
    return x;
}

INLINE lvec cut_wide(lvec x, int64_t end) {
#if defined(__AVX512F__) && LANES == 16
    return (lvec)_mm512_max_epi64(_mm512_min_epi64((__m512i)x, _mm512_set1_epi64(end)), _mm512_set1_epi64(-end));
#else
    lvec high = x > end, low = x < -end;
    return (~high & ~low & x) | (high & end) | (low & -end);
#endif
}

INLINE ivec narrowed(struct wide x, int64_t end) {
    lvec even = cut_wide(x.even, end), odd = cut_wide(x.odd, end);
    return (ivec)((even & INT64_C(0xffffffff)) | (odd << 32));
}

INLINE ivec each(int32_t x) { return x - (ivec){}; }

/* ---- Products --------------------------------------------------------------------------------------------------------- */

enum { CODES, BYTES, TOTAL }; /* what becomes of sums: codes of filters, signed bytes, a norm's input on top of the residual */

struct itarget {
    int kind;
    void *out;               /* uint8_t, int8_t or int32_t */
    long row;
    const int16_t *residual; /* TOTAL */
    long residual_row;
    struct factor by;
    const struct igelu *gelu;
};

INLINE ivec polynomial(ivec q, const struct igelu *x) {
    ivec below = q < 0, size = (below & -q) | (~below & q), far = size > x->b;
    ivec apart = ((far & x->b) | (~far & size)) - x->b;
    ivec y = (x->c - apart * apart) >> x->shift;
    y = (below & -y) | (~below & y);
    return narrowed(rescaled(q * (y + x->one), each(x->out.m), x->out.e), 127);
}

INLINE void finish_integers(const int32_t *sums, const struct iproduct *p, const struct itarget *to, long first, long at, int rows,
                            int kind) {
    for (long column = 0; column < SIDE && at + column < p->outputs; column += LANES) {
        long place = at + column;
        uvec bias = *(const uvec *)(p->bias + place);
        ivec m = *(const ivec *)(p->m + place);
        for (int i = 0; i < rows; i++) {
            ivec q = (ivec)(*(const uvec *)(sums + i * SIDE + column) + bias);
            struct wide x = rescaled(q, m, p->e);
            if (kind == TOTAL) {
                ivec more = __builtin_convertvector(*(const ishort *)(to->residual + (first + i) * to->residual_row + place), ivec);
                struct wide y = rescaled(more, each(to->by.m), to->by.e);
                x.even += y.even, x.odd += y.odd;
                *(ivec *)((int32_t *)to->out + (first + i) * to->row + place) = narrowed(x, p->end);
            } else if (kind == BYTES) {
                *(ibyte *)((int8_t *)to->out + (first + i) * to->row + place) =
                    __builtin_convertvector(narrowed(x, p->end), ibyte);
            } else {
                ivec found = narrowed(x, p->end);
                if (to->gelu != NULL) found = polynomial(found, to->gelu);
                *(ibyte *)((uint8_t *)to->out + (first + i) * to->row + place) = __builtin_convertvector(found + 128, ibyte);
            }
        }
    }
}

static __attribute__((noinline)) void finished_integers(const int32_t *sums, const struct iproduct *p, const struct itarget *to,
                                                        long first, long at, int rows) {
    switch (to->kind) {
        case TOTAL: finish_integers(sums, p, to, first, at, rows, TOTAL); break;
        case BYTES: finish_integers(sums, p, to, first, at, rows, BYTES); break;
        default: finish_integers(sums, p, to, first, at, rows, CODES);
    }
}

INLINE long in_groups(long x) { return (x + GROUP - 1) / GROUP * GROUP; }
INLINE long in_panels(long x) { return (x + SIDE - 1) / SIDE * SIDE; }

/* All outputs of `rows` rows. */
static void multiply_integers(const struct iproduct *p, const input *x, long x_row, const struct itarget *to, long rows) {
    int32_t sums[ROWS * SIDE] __attribute__((aligned(64)));
    long depth = in_groups(p->inputs);
    for (long at = 0; at < p->outputs; at += SIDE) {
        int half = p->outputs - at <= SIDE / 2;
        for (long first = 0; first < rows;) {
            long left = rows - first, blocks = (left + ROWS - 1) / ROWS;
            int now = (int)((left + blocks - 1) / blocks);
            all_integer_sums(sums, x + first * x_row, x_row, p->weight + at * depth, depth, now, half);
            finished_integers(sums, p, to, first, at, now);
            first += now;
        }
    }
}

/* ---- Square root, norm, tables ---------------------------------------------------------------------------------------- */

static int64_t square_root(int64_t n) {
    if (n < 1) return 0;
    int bits = 64 - __builtin_clzll((unsigned long long)n);
    int64_t x = INT64_C(1) << ((bits + 1) / 2);
    for (;;) {
        int64_t y = (x + n / x) >> 1;
        if (y >= x) return x;
        x = y;
    }
}

INLINE int64_t floor_of(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

/* A row of a norm's inputs to the residual and to codes; x is changed. */
static void normed_integers(const struct inorm *n, int32_t *restrict x, int16_t *restrict residual, input *restrict codes) {
    long d = n->width;
    int64_t sum = 0, squares = 0;
    for (long i = 0; i < d; i++) sum += x[i];
    int32_t mean = (int32_t)floor_of(2 * sum + d, 2 * d);
    for (long i = 0; i < d; i++) {
        x[i] -= mean;
        squares += (int64_t)x[i] * x[i];
    }
    int64_t deviation = square_root(squares + n->eps);
    if (deviation < 1) deviation = 1;
    int64_t share = (INT64_C(1) << SPREAD) / deviation;
    const int64_t unit = INT64_C(1) << (SPREAD - UNIT - 1), half = INT64_C(1) << (n->e - 1), end = n->end;
    const int64_t out_half = INT64_C(1) << (n->out.e - 1), m = n->out.m;
    const int e = n->e, out_e = n->out.e;
    const int32_t *restrict g = n->g;
    const int64_t *restrict b = n->b;
    for (long i = 0; i < d; i++) {
        int64_t t = (x[i] * share + unit) >> (SPREAD - UNIT);
        int64_t out = (t * g[i] + b[i] + half) >> e;
        out = out > end ? end : out;
        out = out < -end ? -end : out;
        residual[i] = (int16_t)out;
        int64_t code = (out * m + out_half) >> out_e;
        code = code > 127 ? 127 : code;
        code = code < -127 ? -127 : code;
        codes[i] = (input)(code + OFFSET);
    }
}

/* Codes looked up in place, or codes as they are, as a product takes them. */
static void looked_up(const uint8_t *table, const uint8_t *codes, input *to, long count) {
    long i = 0;
#if GROUP == 4 && defined(__AVX512VBMI__)
    if (table != NULL) {
        __m512i part[4];
        for (int j = 0; j < 4; j++) part[j] = _mm512_loadu_si512(table + 64 * j);
        for (; i + 64 <= count; i += 64) {
            __m512i at = _mm512_loadu_si512(codes + i);
            __m512i low = _mm512_permutex2var_epi8(part[0], at, part[1]), high = _mm512_permutex2var_epi8(part[2], at, part[3]);
            _mm512_storeu_si512(to + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high));
        }
    }
#endif
    for (; i < count; i++) to[i] = (input)((table == NULL ? codes[i] : table[codes[i]]) - 128 + OFFSET);
}

/* ---- Attention -------------------------------------------------------------------------------------------------------- */

/* One head of one sequence: n keys, `asking` queries. q, k, v: signed bytes; out: a product's inputs. */
static int head_of_integers(const struct iencoder *x, const struct ilayer *l, const int8_t *q, const int8_t *k, const int8_t *v,
                            input *out, long row, long out_row, int n, int asking) {
    long width = l->width, deep = in_groups(width), keys = in_panels(n), wide = in_panels(width), depth = in_groups(n);
    long padded = up(n);
    size_t bytes = (size_t)(keys * deep + wide * depth) + 4 * (size_t)(keys + ROWS * keys + 2 * ROWS * SIDE) +
                   sizeof(input) * (size_t)(ROWS * (deep + 2 * keys)) + 1024;
    uint8_t *memory = (uint8_t *)room_for(bytes / 4 + 1);
    if (memory == NULL) return 1;
#define TAKE(type, name, count) \
    type *name = (type *)memory; \
    memory += (sizeof(type) * (size_t)(count) + 63) / 64 * 64
    TAKE(int8_t, turned, keys * deep);
    TAKE(int8_t, values, wide * depth);
    TAKE(int32_t, taken, keys);
    TAKE(int32_t, scores, ROWS * keys);
    TAKE(int32_t, sums, ROWS * SIDE);
    TAKE(int32_t, more, ROWS * SIDE);
    TAKE(input, asks, ROWS * deep);
    TAKE(input, low, ROWS * keys);
    TAKE(input, high, ROWS * keys);
#undef TAKE
    for (long j = 0; j < n; j++) { /* keys side by side in groups of their numbers; what stands behind the last one is not read */
        const int8_t *from = k + j * row;
        int8_t *place = turned + j / SIDE * SIDE * deep + j % SIDE * GROUP;
        long i = 0;
        for (; i + GROUP <= width; i += GROUP) memcpy(place + i * SIDE, from + i, GROUP);
        if (i < width) {
            memset(place + i * SIDE, 0, GROUP);
            for (long rest = i; rest < width; rest++) place[i * SIDE + rest - i] = from[rest];
        }
        int32_t sum = 0;
        for (i = 0; i < width; i++) sum += from[i];
        taken[j] = OFFSET * sum;
    }
    for (long j = 0; j < depth; j += GROUP) { /* values: each number of a group of keys side by side, 0 where there is no key */
        const int8_t *from[GROUP];
        static const int8_t nothing[SIDE];
        long at = 0;
        for (; at < width; at += SIDE) {
            long count = width - at < SIDE ? width - at : SIDE;
            for (int g = 0; g < GROUP; g++) from[g] = j + g < n ? v + (j + g) * row + at : nothing;
            int8_t *restrict to = values + at * depth + j * SIDE;
            for (long i = 0; i < count; i++)
                for (int g = 0; g < GROUP; g++) to[i * GROUP + g] = from[g][i];
        }
    }
    const int down = SHARE - x->probabilities, most = (1 << x->probabilities) - 1, split = GROUP == 4 && x->probabilities > 8;
    const ivec logit_m = each(l->logits.m), context_m = each(l->context.m);
    for (int first = 0; first < asking; first += ROWS) {
        int rows = asking - first < ROWS ? asking - first : ROWS;
        for (int i = 0; i < rows; i++) {
            const int8_t *from = q + (first + i) * row;
            for (long j = 0; j < width; j++) asks[i * deep + j] = (input)(from[j] + OFFSET);
            for (long j = width; j < deep; j++) asks[i * deep + j] = 0;
        }
        for (long at = 0; at < n; at += SIDE) {
            all_integer_sums(sums, asks, deep, turned + at * deep, deep, rows, n - at <= SIDE / 2);
            long count = padded - at < SIDE ? padded - at : SIDE;
            for (int i = 0; i < rows; i++)
                for (long j = 0; j < count; j += LANES)
                    *(ivec *)(scores + i * keys + at + j) = *(ivec *)(sums + i * SIDE + j) - *(ivec *)(taken + at + j);
        }
        for (int i = 0; i < rows; i++) {
            int32_t *own = scores + i * keys;
            for (long j = n; j < padded; j++) own[j] = -(1 << 30); /* exp of that is 0 */
            ivec tops = *(ivec *)own;
            for (long j = LANES; j < padded; j += LANES) {
                ivec now = *(ivec *)(own + j), above = now > tops;
                tops = (above & now) | (~above & tops);
            }
            int32_t top = tops[0];
            for (int j = 1; j < LANES; j++) top = tops[j] > top ? tops[j] : top;
            lvec even = (lvec){}, odd = (lvec){};
            for (long j = 0; j < padded; j += LANES) {
                ivec logit = narrowed(rescaled(*(ivec *)(own + j) - top, logit_m, l->logits.e), -(int64_t)x->lowest);
                ivec z = (-logit * x->magic) >> x->down, r = logit + z * x->ln2;
                ivec power = ((r + x->b) * r + x->c) >> z;
                *(ivec *)(own + j) = power;
                even += (lvec)power & INT64_C(0xffffffff);
                odd += (lvec)power >> 32;
            }
            even += odd;
            int64_t total = 0;
            for (int j = 0; j < LANES / 2; j++) total += even[j];
            ivec share = each((int32_t)((INT64_C(1) << SHARE) / (total < 1 ? 1 : total)));
            for (long j = 0; j < padded; j += LANES) {
                ivec p = narrowed(rescaled(*(ivec *)(own + j), share, down), most);
#if GROUP == 4
                *(ibyte *)(low + i * keys + j) = __builtin_convertvector(p & 255, ibyte);
                *(ibyte *)(high + i * keys + j) = __builtin_convertvector(p >> 8, ibyte);
#else
                *(ishort *)(low + i * keys + j) = __builtin_convertvector(p, ishort);
#endif
            }
        }
        for (long at = 0; at < width; at += SIDE) {
            int few = width - at <= SIDE / 2;
            all_integer_sums(sums, low, keys, values + at * depth, depth, rows, few);
            if (split) all_integer_sums(more, high, keys, values + at * depth, depth, rows, few);
            long count = width - at < SIDE ? width - at : SIDE;
            for (int i = 0; i < rows; i++)
                for (long j = 0; j < count; j += LANES) {
                    ivec mixed = *(ivec *)(sums + i * SIDE + j);
                    if (split) mixed += *(ivec *)(more + i * SIDE + j) << 8;
                    ivec found = narrowed(rescaled(mixed, context_m, l->context.e), 127) + OFFSET;
                    input *to = out + (first + i) * out_row + at + j;
                    if (count - j >= LANES) {
#if GROUP == 4
                        *(ibyte *)to = __builtin_convertvector(found, ibyte);
#else
                        *(ishort *)to = __builtin_convertvector(found, ishort);
#endif
                    } else {
                        for (long rest = 0; rest < count - j; rest++) to[rest] = (input)found[rest];
                    }
                }
        }
    }
    return 0;
}

/* ---- The encoder ------------------------------------------------------------------------------------------------------ */

struct block { int32_t *total; input *codes, *active; int16_t *residual; uint8_t *filters; };

static int take_block(struct block *own, long d, long f) {
    size_t wide = (size_t)in_panels(d) * MOST, filters = (size_t)in_panels(f) * MOST;
    size_t bytes = 4 * wide + sizeof(input) * (wide + filters) + 2 * wide + filters + 512;
    uint8_t *memory = (uint8_t *)room_for(bytes / 4 + 1);
    if (memory == NULL) return 1;
    own->total = (int32_t *)memory, memory += 4 * wide;
    own->codes = (input *)memory, memory += sizeof(input) * wide;
    own->active = (input *)memory, memory += sizeof(input) * filters;
    own->residual = (int16_t *)memory, memory += 2 * wide;
    own->filters = memory;
    return 0;
}

/* Words, types and positions, added up and normed. */
static void embedded(const struct iencoder *x, int64_t id, int64_t kind, int64_t place, int32_t *restrict total,
                     int16_t *restrict residual, input *restrict codes) {
    long d = x->norm.width;
    const int8_t *restrict word = x->words.weight + id * d, *restrict at = x->positions.weight + place * d;
    const int64_t word_m = x->words.m[id], word_half = INT64_C(1) << (x->words.e - 1), word_e = x->words.e;
    const int64_t at_m = x->positions.m[place], at_half = INT64_C(1) << (x->positions.e - 1), at_e = x->positions.e;
    const int8_t *restrict of_kind = x->kinds.weight == NULL ? NULL : x->kinds.weight + kind * d;
    for (long i = 0; i < d; i++) {
        int64_t sum = (word[i] * word_m + word_half) >> word_e;
        if (of_kind != NULL)
            sum += (of_kind[i] * (int64_t)x->kinds.m[kind] + (INT64_C(1) << (x->kinds.e - 1))) >> x->kinds.e;
        sum = rescaled_one(cut(sum, SUM_END), x->sum) + ((at[i] * at_m + at_half) >> at_e);
        total[i] = (int32_t)cut(sum, WIDEST);
    }
    normed_integers(&x->norm, total, residual, codes);
}

/* Numbers that a run needs beside its output: bytes for t tokens. */
long sparsam_ibert_room(const struct iencoder *x, long t) {
    long widest = 0;
    for (long i = 0; i < x->count; i++) {
        long a = in_panels((long)x->layers[i].heads * x->layers[i].width);
        widest = a > widest ? a : widest;
    }
    long d = in_panels(x->norm.width);
    return t * (3 * widest + (long)sizeof(input) * (widest + d) + 2 * d) + 1024;
}

/* ids, kinds (or NULL), places: (t); starts: (b + 1); room: as told, aligned to a line; out: (t, or b where alone, d).
 * Returns 1 without memory. */
int sparsam_ibert(const struct iencoder *x, const int64_t *ids, const int64_t *kinds, const int64_t *places,
                  const int64_t *starts, int b, int alone, uint8_t *room_, int32_t *out, int threads) {
    long t = starts[b], d = x->norm.width, wide = in_panels(d), widest = 0;
    for (long i = 0; i < x->count; i++) {
        long a = in_panels((long)x->layers[i].heads * x->layers[i].width);
        widest = a > widest ? a : widest;
    }
    int8_t *q = (int8_t *)room_, *k = q + t * widest, *v = k + t * widest;
    input *context = (input *)(((uintptr_t)(v + t * widest) + 63) / 64 * 64);
    input *codes = context + t * widest;
    int16_t *residual = (int16_t *)(((uintptr_t)(codes + t * wide) + 63) / 64 * 64);
    long together = rows_together(t, threads);
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && t > 1)
    for (long first = 0; first < t; first += together) {
        long rows = t - first < together ? t - first : together;
        struct block own;
        if (take_block(&own, d, 0)) {
            failed = 1;
            continue;
        }
        for (long i = first; i < first + rows; i++)
            embedded(x, ids[i], kinds == NULL ? 0 : kinds[i], places[i], own.total, residual + i * wide, codes + i * wide);
    }
    for (long index = 0; index < x->count && !failed; index++) {
        const struct ilayer *l = x->layers + index;
        long a = (long)l->heads * l->width, side = in_panels(a);
        int single = alone && index == x->count - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && t > 1)
        for (long first = 0; first < t; first += together) {
            long rows = t - first < together ? t - first : together;
            struct itarget to = {.kind = BYTES, .row = side};
            to.out = k + first * side;
            multiply_integers(&l->k, codes + first * wide, wide, &to, rows);
            to.out = v + first * side;
            multiply_integers(&l->v, codes + first * wide, wide, &to, rows);
            if (single) continue;
            to.out = q + first * side;
            multiply_integers(&l->q, codes + first * wide, wide, &to, rows);
        }
        if (single) { /* the first tokens' rows go side by side: each lies at or behind its place */
            for (long s = 0; s < b; s++) {
                memmove(codes + s * wide, codes + starts[s] * wide, sizeof(input) * (size_t)wide);
                memmove(residual + s * wide, residual + starts[s] * wide, 2 * (size_t)wide);
            }
            struct itarget to = {.kind = BYTES, .out = q, .row = side};
            multiply_integers(&l->q, codes, wide, &to, b);
        }
        long tasks = (long)b * l->heads;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) reduction(| : failed) if (threads > 1)
        for (long task = 0; task < tasks; task++) {
            long s = task / l->heads, h = task % l->heads, from = starts[s], asks = single ? s : from;
            int n = (int)(starts[s + 1] - from);
            failed |= head_of_integers(x, l, q + asks * side + h * l->width, k + from * side + h * l->width,
                                       v + from * side + h * l->width, context + asks * side + h * l->width, side, side, n,
                                       single ? 1 : n);
        }
        long count = single ? b : t, f = l->up.outputs, filters = in_panels(f);
        long pieces = rows_together(count, threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && count > 1)
        for (long first = 0; first < count; first += pieces) {
            long rows = count - first < pieces ? count - first : pieces;
            struct block own;
            if (take_block(&own, d, f)) {
                failed = 1;
                continue;
            }
            struct itarget to = {.kind = TOTAL, .out = own.total, .row = wide, .residual = residual + first * wide,
                                 .residual_row = wide, .by = l->o_residual};
            multiply_integers(&l->o, context + first * side, side, &to, rows);
            for (long i = 0; i < rows; i++)
                normed_integers(&l->attention, own.total + i * wide, own.residual + i * wide, own.codes + i * wide);
            struct itarget hidden = {.kind = CODES, .out = own.filters, .row = filters,
                                     .gelu = l->table == NULL ? &l->gelu : NULL};
            multiply_integers(&l->up, own.codes, wide, &hidden, rows);
            for (long i = 0; i < rows; i++)
                looked_up(l->table, own.filters + i * filters, own.active + i * filters, f);
            to.residual = own.residual, to.by = l->ffn_residual;
            multiply_integers(&l->down, own.active, filters, &to, rows);
            for (long i = 0; i < rows; i++)
                normed_integers(&l->ffn, own.total + i * wide, residual + (first + i) * wide, codes + (first + i) * wide);
        }
    }
    if (failed) return 1;
    long count = alone && x->count ? b : t;
    for (long i = 0; i < count; i++)
        for (long j = 0; j < d; j++) out[i * d + j] = residual[i * wide + j];
    return 0;
}
