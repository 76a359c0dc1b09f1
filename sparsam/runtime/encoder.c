/* The halves of an encoder's layers on packed tokens, products in 8-bit integers or in float32.
 *
 * A product's inputs become integers row by row, each token with its own scale and zero (or with those that calibration
 * gave); sums are exact in 32 bits, and what follows is done before a row leaves the cache: scales, bias, activation, residual,
 * norm. A few rows at a time go through output projection, feed-forward part and both norms without a barrier between them.
 *
 * Weights lie in panels: for each group of GROUP inputs the outputs side by side, so that one instruction multiplies a group
 * of a row's inputs with those of a whole vector of outputs and adds them up:
 *
 *     AVX-512 VNNI, AVX-VNNI    4 unsigned bytes by 4 signed ones (vpdpbusd); the zero's share is taken off afterwards
 *     AVX2, AVX-512             2 signed 16-bit numbers by 2 (vpmaddwd): the zero is taken off before, nothing saturates
 *     elsewhere                 the same, number by number
 *
 * All of them give the same integers. SPARSAM_GROUP=4 builds the first layout without its instruction, for tests, and
 * SPARSAM_LANES=16 with vectors of that width.
 *
 * Letters: t packed tokens, b sequences, h heads, k head width, d model width, f filters.
 */
#include "native.c"

#if defined(SPARSAM_GROUP)
#define GROUP SPARSAM_GROUP
#elif (defined(__AVX512VNNI__) && LANES == 16) || (defined(__AVXVNNI__) && LANES == 8)
#define GROUP 4
#define HARDWARE 1
#else
#define GROUP 2
#if (defined(__AVX512BW__) && LANES == 16) || (defined(__AVX2__) && LANES == 8)
#define HARDWARE 1
#endif
#endif

#if GROUP == 4
typedef uint8_t input;
#else
typedef int16_t input;
#endif

#if LANES == 16
#define WIDE 4 /* vectors of outputs a panel: with ROWS rows 24 sums, of 32 registers */
#else
#define WIDE 2
#endif
#define SIDE (WIDE * LANES)
#define MOST 48 /* rows that go through a half together: their filters' answers stay in the second cache */

#define SMALLEST 0x1p-100f /* below it a row is all zeros, as in quantization/affine.py */

enum { NONE, RELU, GELU, GELU_TANH };

struct product {
    const void *weight;   /* panels of int8, or of float32 */
    const float *scale;   /* (outputs) NULL for a product in float32 */
    const float *bias;    /* (outputs) or NULL */
    const int32_t *sums;  /* (outputs) each output's sum of integer weights */
    int64_t inputs, outputs;
    int32_t fixed;        /* inputs on one grid instead of each token's own */
    int32_t zero;
    float step;
    float inverse;
};

struct norm {
    const float *weight, *bias;
    float epsilon;
    int32_t width;
};

struct layer {
    struct product mix, ask, out, up, down; /* q, k, v (k, v where `ask` is q's own) */
    struct norm attention, ffn;
    int32_t heads, width, pre_norm, activation;
    float scale;
    int32_t alone;        /* one query a sequence, its first token's */
};

INLINE long depth_of(const struct product *p) { return (p->inputs + GROUP - 1) / GROUP * GROUP; }

/* ---- Weights ---------------------------------------------------------------------------------------------------------- */

/* Numbers that the panels of a product take. */
long sparsam_panels(long inputs, long outputs, int integers) {
    long depth = integers ? (inputs + GROUP - 1) / GROUP * GROUP : inputs;
    return (outputs + SIDE - 1) / SIDE * SIDE * depth;
}

/* weight: (outputs, inputs) int8, rows one after the other; to: room for panels; sums: (outputs). */
void sparsam_pack_integers(const int8_t *weight, int8_t *to, int32_t *sums, long inputs, long outputs) {
    long depth = (inputs + GROUP - 1) / GROUP * GROUP;
    memset(to, 0, (size_t)sparsam_panels(inputs, outputs, 1));
    for (long o = 0; o < outputs; o++) {
        int8_t *panel_ = to + o / SIDE * SIDE * depth + o % SIDE * GROUP;
        int32_t sum = 0;
        for (long i = 0; i < inputs; i++) {
            int8_t value = weight[o * inputs + i];
            panel_[i / GROUP * SIDE * GROUP + i % GROUP] = value;
            sum += value;
        }
        sums[o] = sum;
    }
}

void sparsam_pack_floats(const float *weight, float *to, long inputs, long outputs) {
    memset(to, 0, 4 * (size_t)sparsam_panels(inputs, outputs, 0));
    for (long o = 0; o < outputs; o++)
        for (long i = 0; i < inputs; i++)
            to[o / SIDE * SIDE * inputs + i * SIDE + o % SIDE] = weight[o * inputs + i];
}

/* ---- Inputs ----------------------------------------------------------------------------------------------------------- */

/* To the nearest whole number, ties to even; |x| < 2**22. The compiler may not merge the product in front into this sum. */
INLINE ivec rounded(vec x) {
#if defined(__AVX512F__) && LANES == 16
    return (ivec)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX2__) && LANES == 8
    return (ivec)_mm256_cvtps_epi32((__m256)x);
#else
    ivec out;
    for (int i = 0; i < LANES; i++) out[i] = (int32_t)__builtin_rintf(x[i]);
    return out;
#endif
}

INLINE ivec within(ivec x) {
#if defined(__AVX512F__) && LANES == 16
    return (ivec)_mm512_min_epi32(_mm512_max_epi32((__m512i)x, _mm512_setzero_si512()), _mm512_set1_epi32(255));
#elif defined(__AVX2__) && LANES == 8
    return (ivec)_mm256_min_epi32(_mm256_max_epi32((__m256i)x, _mm256_setzero_si256()), _mm256_set1_epi32(255));
#else
    ivec low = x < 0, high = x > 255;
    return (~low & ~high & x) | (high & 255);
#endif
}

typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

#define CHAINS 4 /* of extremes side by side: one waits for the one before it */

/* What ends a row's range: -the least, the largest; and 0, or what is not a number, which comparisons lose. */
INLINE void extremes(vec value, vec *low, vec *high, vec *none) {
    *high = larger(*high, value);
    *low = larger(*low, -value);
    *none += value * 0.0f;
}

/* A row on its grid: `depth` numbers are written, those behind `count` as 0. */
INLINE void quantized(const float *x, long count, long depth, input *to, float *step, int32_t *zero, const struct product *p) {
    float inverse;
    if (p->fixed) {
        *step = p->step, *zero = p->zero, inverse = p->inverse;
    } else {
        vec lows[CHAINS] = {0}, highs[CHAINS] = {0}, nones[CHAINS] = {0};
        float least = 0, most = 0, rest = 0;
        long i = 0;
        for (; i + CHAINS * LANES <= count; i += CHAINS * LANES)
            for (int j = 0; j < CHAINS; j++) extremes(*(const vec *)(x + i + j * LANES), lows + j, highs + j, nones + j);
        for (; i + LANES <= count; i += LANES) extremes(*(const vec *)(x + i), lows, highs, nones);
        vec low = lows[0], high = highs[0], none = nones[0];
        for (int j = 1; j < CHAINS; j++)
            low = larger(low, lows[j]), high = larger(high, highs[j]), none += nones[j];
        for (; i < count; i++) {
            most = x[i] > most ? x[i] : most;
            least = x[i] < least ? x[i] : least;
            rest += x[i] * 0.0f;
        }
        float top = largest_of(high), bottom = -largest_of(low);
        most = top > most ? top : most;
        least = bottom < least ? bottom : least;
        float range = most - least + (sum_of(none) + rest);
        if (!(range <= 3.4028235e38f)) { /* not finite: so are the row's outputs */
            *step = __builtin_nanf(""), *zero = 0;
            memset(to, 0, sizeof(input) * (size_t)depth);
            return;
        }
        if (range < SMALLEST) {
            *step = 1, *zero = 0, inverse = 1;
        } else {
            *step = range / 255.0f;
            inverse = 255.0f / range;
            int32_t at = (int32_t)__builtin_rintf(-least * inverse);
            *zero = at < 0 ? 0 : at > 255 ? 255 : at;
        }
    }
    ivec shift = *zero - (ivec){};
#if GROUP == 4
    ivec back = (ivec){};
#else
    ivec back = shift;
#endif
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        ivec q = within(rounded(*(const vec *)(x + i) * inverse) + shift) - back;
#if GROUP == 4
        *(bytes *)(to + i) = __builtin_convertvector(q, bytes);
#else
        *(shorts *)(to + i) = __builtin_convertvector(q, shorts);
#endif
    }
    if (i < count) {
        float rest[LANES] = {0};
        memcpy(rest, x + i, 4 * (size_t)(count - i));
        ivec q = within(rounded(*(vec *)rest * inverse) + shift) - back;
        for (int j = 0; i + j < count; j++) to[i + j] = (input)q[j];
    }
    for (i = count; i < depth; i++) to[i] = 0;
}

/* ---- Products --------------------------------------------------------------------------------------------------------- */

#if HARDWARE && GROUP == 4 && LANES == 16
INLINE ivec dot(ivec sum, int32_t group, const int8_t *weights) {
    return (ivec)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(group), _mm512_loadu_si512(weights));
}
#elif HARDWARE && GROUP == 4
INLINE ivec dot(ivec sum, int32_t group, const int8_t *weights) {
    return (ivec)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(group),
                                         _mm256_loadu_si256((const __m256i *)weights));
}
#endif

#if HARDWARE && GROUP == 2 && LANES == 16
typedef __m512i pairs;
INLINE pairs widened(const int8_t *weights) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)weights)); }
INLINE pairs both(int32_t pair) { return _mm512_set1_epi32(pair); }
INLINE ivec added(ivec sum, pairs left, pairs right) {
    return (ivec)_mm512_add_epi32((__m512i)sum, _mm512_madd_epi16(left, right));
}
#elif HARDWARE && GROUP == 2
typedef __m256i pairs;
INLINE pairs widened(const int8_t *weights) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights)); }
INLINE pairs both(int32_t pair) { return _mm256_set1_epi32(pair); }
INLINE ivec added(ivec sum, pairs left, pairs right) {
    return (ivec)_mm256_add_epi32((__m256i)sum, _mm256_madd_epi16(left, right));
}
#endif

/* `rows` rows of integers times a panel, the first `vectors` vectors of it: (rows, SIDE) sums. */
#ifdef HARDWARE
INLINE void integer_sums(int32_t *to, const input *left, long left_row, const int8_t *right, long depth, int rows,
                         int vectors) {
    ivec sums[ROWS][WIDE];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) sums[i][j] = (ivec){};
    for (long d = 0; d < depth; d += GROUP, right += SIDE * GROUP) {
#if GROUP == 2
        pairs values[WIDE];
        for (int j = 0; j < vectors; j++) values[j] = widened(right + j * LANES * GROUP);
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, left + i * left_row + d, 4);
            for (int j = 0; j < vectors; j++) sums[i][j] = added(sums[i][j], both(pair), values[j]);
        }
#else
        for (int i = 0; i < rows; i++) {
            int32_t group;
            memcpy(&group, left + i * left_row + d, 4);
            for (int j = 0; j < vectors; j++) sums[i][j] = dot(sums[i][j], group, right + j * LANES * GROUP);
        }
#endif
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(ivec *)(to + i * SIDE + j * LANES) = sums[i][j];
}
#else
INLINE void integer_sums(int32_t *to, const input *left, long left_row, const int8_t *right, long depth, int rows,
                         int vectors) {
    for (int i = 0; i < rows; i++)
        for (int column = 0; column < vectors * LANES; column++) {
            int32_t sum = 0;
            for (long d = 0; d < depth; d++)
                sum += (int32_t)left[i * left_row + d] * right[(d / GROUP * SIDE + column) * GROUP + d % GROUP];
            to[i * SIDE + column] = sum;
        }
}
#endif

INLINE void float_sums(float *to, const float *left, long left_row, const float *right, long depth, int rows, int vectors) {
    vec sums[ROWS][WIDE];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) sums[i][j] = (vec){};
    for (long d = 0; d < depth; d++, right += SIDE) {
        vec values[WIDE];
        for (int j = 0; j < vectors; j++) values[j] = *(const vec *)(right + j * LANES);
        for (int i = 0; i < rows; i++) {
            vec factor = all(left[i * left_row + d]);
            for (int j = 0; j < vectors; j++) sums[i][j] += factor * values[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(vec *)(to + i * SIDE + j * LANES) = sums[i][j];
}

/* One body for each number of rows, and for whole and half panels. */
#define BODIES(name, sum, left_type, right_type)                                                                       \
    static __attribute__((noinline)) void all_##name##_sums(sum *to, const left_type *left, long left_row, const right_type *right, \
                                               long depth, int rows, int half) {                                       \
        switch (rows * 2 + half) {                                                                                     \
            BODY(name, 1) BODY(name, 2) BODY(name, 3) BODY(name, 4) BODY(name, 5) BODY(name, 6)                        \
        }                                                                                                              \
    }
#define BODY(name, r)                                                                  \
    case 2 * r: name##_sums(to, left, left_row, right, depth, r, WIDE); break;         \
    case 2 * r + 1: name##_sums(to, left, left_row, right, depth, r, WIDE / 2); break;
BODIES(integer, int32_t, input, int8_t)
BODIES(float, float, float, float)

/* x Phi(x). Phi(x) - 1/2 is odd: for |x| <= 5 x times a polynomial in 2 x^2 / 25 - 1, fitted by us to 8e-7 (weighted least
 * squares); beyond, Phi is 0 or 1 to 3e-7. */
INLINE vec gelu(vec x) {
    static const float c[] = {0.14136361f, -0.070297688f, 0.05153485f, -0.040409762f, 0.031258523f, -0.023479005f,
                              0.017256141f, -0.010623123f, 0.0046277582f, -0.0032872041f, 0.0034282166f, -0.001372522f};
    ivec above = x > all(5.0f), below = x < all(-5.0f);
    vec y = (vec)(~(above | below) & (ivec)x);
    vec u = y * y * 0.08f - all(1.0f);
    vec sum = all(c[11]);
    for (int i = 10; i >= 0; i--) sum = sum * u + all(c[i]);
    vec share = y * sum + all(0.5f);
    return x * (vec)((above & (ivec)all(1.0f)) | (~above & ~below & (ivec)share));
}

INLINE vec gelu_tanh(vec x) { /* x / (1 + exp(-2 z)); the larger of both signs would overflow, so it is worked out for -|z| */
    vec z = (x + x * x * x * 0.044715f) * 1.5957691f;
    ivec below = z < all(0.0f);
    vec size = (vec)((ivec)z & 0x7fffffff);
    vec power = exponential(-size);
    vec share = all(1.0f) / (all(1.0f) + power);
    share = (vec)((below & (ivec)(share * power)) | (~below & (ivec)share));
    return x * share;
}

INLINE vec activated(vec x, int activation) {
    if (activation == GELU) return gelu(x);
    if (activation == GELU_TANH) return gelu_tanh(x);
    if (activation == RELU) return larger(x, all(0.0f));
    return x;
}

/* Rows of inputs as a product takes them. */
struct rows {
    const input *integers;
    const float *floats;
    long row; /* numbers from one row to the next */
    const float *step;
    const int32_t *zero;
};

/* What a product's sums become: `count` <= LANES outputs of row i from column `at` on. */
struct target {
    float *out;
    long out_row;
    const float *residual; /* or NULL */
    long residual_row;
    const int32_t *residual_at; /* which row of the residual goes with a row; NULL: the same */
    int activation;
};

INLINE void finish(vec value, const struct product *p, const struct target *to, long i, long at, long count, int activation) {
    float *out = to->out + i * to->out_row + at;
    const float *more = to->residual == NULL ? NULL
                      : to->residual + (to->residual_at == NULL ? i : to->residual_at[i]) * to->residual_row + at;
    if (count >= LANES) {
        if (p->bias != NULL) value += *(const vec *)(p->bias + at);
        value = activated(value, activation);
        if (more != NULL) value += *(const vec *)more;
        *(vec *)out = value;
        return;
    }
    float rest[LANES] = {0};
    if (p->bias != NULL) memcpy(rest, p->bias + at, 4 * (size_t)count);
    value = activated(value + *(vec *)rest, activation);
    for (long j = 0; j < count; j++) out[j] = value[j] + (more == NULL ? 0 : more[j]);
}

/* A vector of numbers of four bytes, or as many as there are. */
INLINE ivec front(const void *from, long count) {
    if (count >= LANES) return *(const ivec *)from;
    int32_t rest[LANES] = {0};
    memcpy(rest, from, 4 * (size_t)count);
    return *(ivec *)rest;
}

/* Sums of a tile to what the product gives, where the panel is whole, which is nearly always: what belongs to outputs is read
 * once, and a row at a time is written. */
INLINE void finish_panel(const void *sums, const struct product *p, const struct rows *x, const struct target *to, long first,
                         long at, int rows, int activation) {
    vec steps[WIDE], bias[WIDE];
    ivec taken[WIDE];
    for (int j = 0; j < WIDE; j++) {
        bias[j] = *(const vec *)(p->bias + at + j * LANES);
        if (p->scale == NULL) continue;
        steps[j] = *(const vec *)(p->scale + at + j * LANES);
        taken[j] = *(const ivec *)(p->sums + at + j * LANES);
    }
    for (int i = 0; i < rows; i++) {
        long row = first + i;
        vec value[WIDE];
        if (p->scale == NULL) {
            for (int j = 0; j < WIDE; j++) value[j] = *(const vec *)((const float *)sums + i * SIDE + j * LANES);
        } else {
            float step = x->step[row];
            int32_t zero = GROUP == 4 ? x->zero[row] : 0;
            for (int j = 0; j < WIDE; j++) {
                ivec exact = *(const ivec *)((const int32_t *)sums + i * SIDE + j * LANES) - taken[j] * zero;
                value[j] = __builtin_convertvector(exact, vec) * (steps[j] * step);
            }
        }
        for (int j = 0; j < WIDE; j++) value[j] = activated(value[j] + bias[j], activation);
        if (to->residual != NULL) {
            const float *more = to->residual + (to->residual_at == NULL ? row : to->residual_at[row]) * to->residual_row + at;
            for (int j = 0; j < WIDE; j++) value[j] += *(const vec *)(more + j * LANES);
        }
        float *out = to->out + row * to->out_row + at;
        for (int j = 0; j < WIDE; j++) *(vec *)(out + j * LANES) = value[j];
    }
}

/* The same of any panel. */
INLINE void finish_rows(const void *sums, const struct product *p, const struct rows *x, const struct target *to, long first,
                        long at, int rows, int activation) {
    if (at + SIDE <= p->outputs && p->bias != NULL) {
        finish_panel(sums, p, x, to, first, at, rows, activation);
        return;
    }
    for (long column = 0; column < SIDE && at + column < p->outputs; column += LANES) {
        long count = p->outputs - at - column;
        vec steps = p->scale == NULL ? (vec){} : (vec)front(p->scale + at + column, count);
#if GROUP == 4
        ivec taken = p->scale == NULL ? (ivec){} : front(p->sums + at + column, count);
#endif
        for (int i = 0; i < rows; i++) {
            vec value;
            if (p->scale == NULL) {
                value = *(const vec *)((const float *)sums + i * SIDE + column);
            } else {
                ivec exact = *(const ivec *)((const int32_t *)sums + i * SIDE + column);
#if GROUP == 4
                exact -= taken * x->zero[first + i];
#endif
                value = __builtin_convertvector(exact, vec) * (steps * x->step[first + i]);
            }
            finish(value, p, to, first + i, at + column, count, activation);
        }
    }
}

static __attribute__((noinline)) void finished(const void *sums, const struct product *p, const struct rows *x,
                                               const struct target *to, long first, long at, int rows) {
    switch (to->activation) {
        case GELU: finish_rows(sums, p, x, to, first, at, rows, GELU); break;
        case GELU_TANH: finish_rows(sums, p, x, to, first, at, rows, GELU_TANH); break;
        case RELU: finish_rows(sums, p, x, to, first, at, rows, RELU); break;
        default: finish_rows(sums, p, x, to, first, at, rows, NONE);
    }
}

/* All outputs of `rows` rows. One panel of weights stays in the first cache while all rows go by. */
static void multiply(const struct product *p, const struct rows *x, const struct target *to, long rows) {
    union {
        int32_t integers[ROWS * SIDE];
        float floats[ROWS * SIDE];
    } sums __attribute__((aligned(64)));
    long depth = depth_of(p);
    for (long at = 0; at < p->outputs; at += SIDE) {
        int half = p->outputs - at <= SIDE / 2;
        for (long first = 0; first < rows;) {
            long left = rows - first, blocks = (left + ROWS - 1) / ROWS;
            int now = (int)((left + blocks - 1) / blocks); /* as even as it goes: 7 rows as 4 and 3, not as 6 and 1 */
            if (p->scale != NULL)
                all_integer_sums(sums.integers, x->integers + first * x->row, x->row,
                                 (const int8_t *)p->weight + at * depth, depth, now, half);
            else
                all_float_sums(sums.floats, x->floats + first * x->row, x->row, (const float *)p->weight + at * p->inputs,
                               p->inputs, now, half);
            finished(&sums, p, x, to, first, at, now);
            first += now;
        }
    }
}

/* Room of one thread for MOST rows on their way through products. */
struct desk {
    input *integers;
    float *floats, *step;
    int32_t *zero;
};

static size_t desk_floats(long deepest, long filters) {
    size_t integers = (sizeof(input) * (size_t)(deepest + GROUP) * MOST + 63) / 64 * 16;
    return integers + (size_t)MOST * (size_t)filters + 2 * MOST + 64;
}

static int take_desk(struct desk *own, long deepest, long filters) {
    float *memory = room_for(desk_floats(deepest, filters));
    if (memory == NULL) return 1;
    own->integers = (input *)memory;
    memory += (sizeof(input) * (size_t)(deepest + GROUP) * MOST + 63) / 64 * 16;
    own->floats = memory;
    own->step = memory + (size_t)MOST * (size_t)filters;
    own->zero = (int32_t *)(own->step + MOST);
    return 0;
}

/* `rows` rows of `x`, those that `which` names or the first ones, through a product. Chosen rows of floats are laid side by side
 * on the desk, where nothing else may lie then. */
static void through(const struct product *p, const float *x, long x_row, const int32_t *which, long rows, struct desk *own,
                    const struct target *to) {
    if (p->inputs == 0) { /* the bias alone is left */
        for (long i = 0; i < rows; i++)
            for (long at = 0; at < p->outputs; at += LANES) {
                long count = p->outputs - at;
                finish((vec){}, p, to, i, at, count, to->activation);
            }
        return;
    }
    struct rows taken = {.integers = own->integers, .step = own->step, .zero = own->zero};
    if (p->scale != NULL) {
        taken.row = depth_of(p);
        for (long i = 0; i < rows; i++)
            quantized(x + (which == NULL ? i : which[i]) * x_row, p->inputs, taken.row, own->integers + i * taken.row,
                      own->step + i, own->zero + i, p);
    } else if (which == NULL) {
        taken.floats = x, taken.row = x_row;
    } else {
        for (long i = 0; i < rows; i++)
            memcpy(own->floats + i * p->inputs, x + which[i] * x_row, 4 * (size_t)p->inputs);
        taken.floats = own->floats, taken.row = p->inputs;
    }
    multiply(p, &taken, to, rows);
}

INLINE void normed(const struct norm *n, const float *x, float *to) {
    vec sum = (vec){}, squares = (vec){};
    long width = n->width, i = 0;
    float rest = 0, rest_squares = 0;
    for (; i + LANES <= width; i += LANES) sum += *(const vec *)(x + i);
    for (; i < width; i++) rest += x[i];
    float mean = (sum_of(sum) + rest) / (float)width;
    for (i = 0; i + LANES <= width; i += LANES) {
        vec apart = *(const vec *)(x + i) - all(mean);
        squares += apart * apart;
    }
    for (; i < width; i++) rest_squares += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / __builtin_sqrtf((sum_of(squares) + rest_squares) / (float)width + n->epsilon);
    for (i = 0; i + LANES <= width; i += LANES)
        *(vec *)(to + i) = (*(const vec *)(x + i) - all(mean)) * factor * *(const vec *)(n->weight + i) +
                           *(const vec *)(n->bias + i);
    for (; i < width; i++) to[i] = (x[i] - mean) * factor * n->weight[i] + n->bias[i];
}

/* How many rows go together: no more than MOST, and every thread has as many as the others. */
static long rows_together(long rows, int threads) {
    if (rows < 1) return 1;
    long pieces = (rows + MOST - 1) / MOST;
    pieces = (pieces + threads - 1) / threads * threads;
    return (rows + pieces - 1) / pieces;
}

/* One product by itself: x (t, inputs) to out (t, outputs), plus residual (t, outputs) or NULL. Returns 1 without memory. */
int sparsam_product(const struct product *p, const float *x, long x_row, float *out, long t, const float *residual,
                    int activation, int threads) {
    long together = rows_together(t, threads);
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && t > 1)
    for (long first = 0; first < t; first += together) {
        long rows = t - first < together ? t - first : together;
        struct desk own;
        if (take_desk(&own, p->inputs, 0)) {
            failed = 1;
            continue;
        }
        struct target to = {.out = out + first * p->outputs, .out_row = p->outputs, .activation = activation,
                            .residual = residual == NULL ? NULL : residual + first * p->outputs,
                            .residual_row = p->outputs};
        through(p, x + first * x_row, x_row, NULL, rows, &own, &to);
    }
    return failed;
}

/* The first half up to what its heads mixed. x: (t, d) float32; qkv: room for (t, outputs of mix), and (b, outputs of ask)
 * behind it where the layer is alone; mixed: (t or b, h * k); columns, received: as sparsam_attend, or NULL. */
int sparsam_mix(const struct layer *l, const float *x, const int64_t *starts, int b, float *qkv, float *mixed, float *columns,
                float *received, int threads) {
    long t = starts[b], d = l->attention.width, side = l->mix.outputs, asked = (long)l->heads * l->width;
    if (l->heads == 0) {
        if (received != NULL)
            for (long i = 0; i < t; i++) received[i] = 1.0f;
        return 0;
    }
    long together = rows_together(t, threads);
    int failed = 0;
    float *ask = qkv + t * side;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && t > 1)
    for (long first = 0; first < t; first += together) {
        long rows = t - first < together ? t - first : together;
        struct desk own;
        if (take_desk(&own, d, l->pre_norm ? d : 0)) {
            failed = 1;
            continue;
        }
        const float *from = x + first * d;
        if (l->pre_norm) {
            for (long i = 0; i < rows; i++) normed(&l->attention, from + i * d, own.floats + i * d);
            from = own.floats;
        }
        struct target to = {.out = qkv + first * side, .out_row = side};
        through(&l->mix, from, d, NULL, rows, &own, &to);
    }
    if (l->alone && !failed) {
        long each = rows_together(b, threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && b > 1)
        for (long first = 0; first < b; first += each) {
            long rows = b - first < each ? b - first : each;
            struct desk own;
            if (take_desk(&own, d, d)) {
                failed = 1;
                continue;
            }
            for (long i = 0; i < rows; i++) {
                const float *row = x + starts[first + i] * d;
                if (l->pre_norm) normed(&l->attention, row, own.floats + i * d);
                else memcpy(own.floats + i * d, row, 4 * (size_t)d);
            }
            struct target to = {.out = ask + first * asked, .out_row = asked};
            through(&l->ask, own.floats, d, NULL, rows, &own, &to);
        }
    }
    if (failed) return 1;
    const float *keys = l->alone ? qkv : qkv + asked, *values = keys + asked, *queries = l->alone ? ask : qkv;
    return sparsam_attend(queries, keys, values, mixed, columns, received, NULL, NULL, starts, l->alone ? asked : side, side,
                          side, b, l->heads, l->width, l->scale, 0, l->alone, threads);
}

/* The rest of a layer for `count` of its tokens. which: (count) their rows in x and, but where the layer is alone, in mixed;
 * NULL for all in order. x: (t, d); to: (count, d), not x where rows are chosen. */
int sparsam_rest(const struct layer *l, const float *x, const float *mixed, const int32_t *which, float *to, long count,
                 int threads) {
    long d = l->attention.width, a = (long)l->heads * l->width, f = l->up.outputs;
    long deepest = a > d ? a : d;
    deepest = f > deepest ? f : deepest;
    long together = rows_together(count, threads);
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(| : failed) if (threads > 1 && count > 1)
    for (long first = 0; first < count; first += together) {
        long rows = count - first < together ? count - first : together;
        struct desk own;
        if (take_desk(&own, deepest, f + deepest)) {
            failed = 1;
            continue;
        }
        float *hidden = own.floats, *inner = own.floats + (size_t)MOST * f, *out = to + first * d;
        const int32_t *chosen = which == NULL ? NULL : which + first;
        struct target after = {.out = out, .out_row = d, .residual = chosen == NULL ? x + first * d : x, .residual_row = d,
                               .residual_at = chosen};
        int own_rows = l->alone || chosen == NULL;
        through(&l->out, own_rows ? mixed + first * a : mixed, a, own_rows ? NULL : chosen, rows, &own, &after);
        const float *from = out;
        for (long i = 0; i < rows; i++)
            if (l->pre_norm) normed(&l->ffn, out + i * d, inner + i * d);
            else normed(&l->attention, out + i * d, out + i * d);
        if (l->pre_norm) from = inner;
        struct target filters = {.out = hidden, .out_row = f, .activation = l->activation};
        through(&l->up, from, d, NULL, rows, &own, &filters);
        struct target last = {.out = out, .out_row = d, .residual = out, .residual_row = d};
        through(&l->down, hidden, f, NULL, rows, &own, &last);
        if (!l->pre_norm)
            for (long i = 0; i < rows; i++) normed(&l->ffn, out + i * d, out + i * d);
    }
    return failed;
}

/* Which layout this was built for: GROUP and LANES, and whether an instruction multiplies it. */
void sparsam_layout(int *group, int *lanes, int *hardware) {
    *group = GROUP;
    *lanes = LANES;
#ifdef HARDWARE
    *hardware = 1;
#else
    *hardware = 0;
#endif
}
