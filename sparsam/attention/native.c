/* Softmax attention on packed tokens, sequence by sequence and head by head, with the attention each token receives.
 *
 * Short sequences are what a batch of texts is made of, and what fused kernels for long ones do worst: here a head's keys
 * lie transposed in the first cache, six queries are worked on at once, and no padding but that of the last vector is
 * computed. All sums are float32; inputs and outputs are float32 or bfloat16.
 *
 * Vectors are the compiler's own (GNU C, gcc and clang), so one text serves AVX-512, AVX2 and NEON.
 *
 * Letters: t packed tokens, b sequences, n tokens of one, h heads, k head width.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(SPARSAM_LANES) /* vectors of another processor, for tests: compilers make them of what there is */
#define LANES SPARSAM_LANES
#elif defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif
#define ROWS 6 /* queries at once: with two vectors each, more sums than it takes to hide a multiply-add's latency */
#define VECTORS 2
#define PANEL (VECTORS * LANES)

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec all(float x) { return x - (vec){}; }
/* a > b ? a : b, so b where one of them is no number. */
INLINE vec larger(vec a, vec b) {
#if defined(__AVX512F__) && LANES == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__) && LANES == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    ivec first = a > b;
    return (vec)((first & (ivec)a) | (~first & (ivec)b));
#endif
}

/* exp for x from -87 to 0: 2**whole * exp(rest), |rest| <= ln(2)/2, Taylor to the sixth power (error below 2e-7). What is
 * less counts as -87; what is not a number stays that. */
INLINE vec exponential(vec x) {
    ivec low = x < all(-87.0f);
    x = (vec)((low & (ivec)all(-87.0f)) | (~low & (ivec)x));
    const vec magic = all(12582912.0f); /* 1.5 * 2**23: adding it rounds to a whole number */
    vec shifted = x * 1.44269504f + magic;
    vec whole = shifted - magic;
    vec rest = x - whole * 0.693359375f;
    rest = rest + whole * 2.12194440e-4f;
    vec sum = rest * (1.0f / 720) + all(1.0f / 120);
    sum = sum * rest + all(1.0f / 24);
    sum = sum * rest + all(1.0f / 6);
    sum = sum * rest + all(0.5f);
    sum = sum * rest + all(1.0f);
    sum = sum * rest + all(1.0f);
    ivec power = (ivec)shifted << 23; /* the magic number's low bits hold the whole number */
    return (vec)((ivec)sum + power);
}

#if LANES == 16
#define HALVES(x, op)                                                                                   \
    vec8 y = op((vec8)__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),                            \
                (vec8)__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
#else
#define HALVES(x, op) vec8 y = x;
#endif
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec8 __attribute__((vector_size(32)));
typedef int32_t ivec4 __attribute__((vector_size(16)));
#define PLUS(a, b) ((a) + (b))
INLINE vec8 top8(vec8 a, vec8 b) { ivec8 first = a > b; return (vec8)((first & (ivec8)a) | (~first & (ivec8)b)); }
INLINE vec4 top4(vec4 a, vec4 b) { ivec4 first = a > b; return (vec4)((first & (ivec4)a) | (~first & (ivec4)b)); }

INLINE float sum_of(vec x) {
    HALVES(x, PLUS)
    vec4 z = __builtin_shufflevector(y, y, 0, 1, 2, 3) + __builtin_shufflevector(y, y, 4, 5, 6, 7);
    z += __builtin_shufflevector(z, z, 2, 3, 0, 1);
    return z[0] + z[1];
}

INLINE float largest_of(vec x) {
    HALVES(x, top8)
    vec4 z = top4(__builtin_shufflevector(y, y, 0, 1, 2, 3), __builtin_shufflevector(y, y, 4, 5, 6, 7));
    z = top4(z, __builtin_shufflevector(z, z, 2, 3, 0, 1));
    return z[0] > z[1] ? z[0] : z[1];
}

INLINE float from_half(uint16_t x) {
    uint32_t wide = (uint32_t)x << 16;
    float out;
    memcpy(&out, &wide, 4);
    return out;
}

INLINE uint16_t to_half(float x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

/* A row of `count` numbers as float32; `padded` of them are written, the rest 0. */
INLINE void read_row(float *to, const void *from, long at, int count, int padded, int half) {
    int i = 0;
    if (half) {
        const uint16_t *row = (const uint16_t *)from + at;
        for (; i + LANES <= count; i += LANES)
            *(vec *)(to + i) = (vec)(__builtin_convertvector(*(const hvec *)(row + i), uvec) << 16);
        for (; i < count; i++) to[i] = from_half(row[i]);
    } else {
        memcpy(to, (const float *)from + at, 4 * (size_t)count);
        i = count;
    }
    for (; i < padded; i++) to[i] = 0;
}

INLINE void write_row(void *to, long at, const float *from, int count, int half) {
    if (!half) {
        memcpy((float *)to + at, from, 4 * (size_t)count);
        return;
    }
    uint16_t *row = (uint16_t *)to + at;
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        uvec bits = (uvec)*(const vec *)(from + i);
        uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        uvec quiet = (bits >> 16) | 0x40;
        uvec none = (uvec)((bits & 0x7fffffff) > 0x7f800000);
        *(hvec *)(row + i) = __builtin_convertvector((none & quiet) | (~none & rounded), hvec);
    }
    for (; i < count; i++) row[i] = to_half(from[i]);
}

/* `rows` rows of `left` (`depth` deep) times a panel of `right` (depth x vectors): into `out`. */
INLINE void panel(float *out, long out_row, const float *left, long left_row, const float *right, long right_row, int depth,
                  int rows, int vectors) {
    vec sums[ROWS][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) sums[i][j] = (vec){};
    for (int d = 0; d < depth; d++, right += right_row) {
        vec values[VECTORS];
        for (int j = 0; j < vectors; j++) values[j] = *(const vec *)(right + j * LANES);
        for (int i = 0; i < rows; i++) {
            float factor = left[i * left_row + d];
            for (int j = 0; j < vectors; j++) sums[i][j] += factor * values[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) *(vec *)(out + i * out_row + j * LANES) = sums[i][j];
}

/* The same for all columns; `step` numbers lie between one panel of `right` and the next. */
INLINE void product(float *out, long out_row, const float *left, long left_row, const float *right, long right_row, long step,
                    int depth, int columns, int rows) {
    int c = 0;
    for (; c + PANEL <= columns; c += PANEL, out += PANEL, right += step)
        panel(out, out_row, left, left_row, right, right_row, depth, rows, VECTORS);
    if (c < columns) panel(out, out_row, left, left_row, right, right_row, depth, rows, 1);
}

static __thread float *room;
static __thread size_t room_size;

static float *room_for(size_t floats) {
    if (floats > room_size) {
        free(room);
        room = NULL;
        room_size = 0;
        if (posix_memalign((void **)&room, 64, 4 * floats)) return NULL;
        room_size = floats;
    }
    return room;
}

INLINE int up(int x) { return (x + LANES - 1) / LANES * LANES; }

/* One head's keys and values as its queries are multiplied with, and room for a block of them. */
struct head {
    float *turned; /* keys in panels: PANEL of them side by side for each of `width` numbers */
    float *values; /* (n, wide) */
    float *shift;  /* (keys) added to their logits; very little where there is no key */
    float *total;  /* (keys) the columns' sums */
    float *p, *asking, *mixed;
    int n, keys, width, wide;
};

/* `rows` queries of a head: their logits, probabilities, answers. All of them go side by side, so that no sum waits. */
INLINE void block(const struct head *x, const void *q, long q_row, void *out, long out_row, const float *weight, int sums,
                  float scale, int half, int rows) {
    int keys = x->keys, wide = x->wide;
    float *p = x->p, *asking = x->asking, *mixed = x->mixed, *shift = x->shift, *total = x->total;
    for (int i = 0; i < rows; i++) {
        read_row(asking + i * wide, q, i * q_row, x->width, wide, half);
        for (int d = 0; d < wide; d += LANES) *(vec *)(asking + i * wide + d) *= scale;
    }
    product(p, keys, asking, wide, x->turned, PANEL, (long)PANEL * x->width, x->width, keys, rows);
    vec top[ROWS], sum[ROWS], share[ROWS];
    for (int i = 0; i < rows; i++) top[i] = all(-1e38f), sum[i] = (vec){};
    for (int j = 0; j < keys; j += LANES) {
        vec more = *(vec *)(shift + j);
        for (int i = 0; i < rows; i++) {
            vec logit = *(vec *)(p + (long)i * keys + j) + more;
            *(vec *)(p + (long)i * keys + j) = logit;
            top[i] = larger(top[i], logit);
        }
    }
    for (int i = 0; i < rows; i++) top[i] = all(largest_of(top[i]));
    for (int j = 0; j < keys; j += LANES)
        for (int i = 0; i < rows; i++) {
            vec power = exponential(*(vec *)(p + (long)i * keys + j) - top[i]);
            *(vec *)(p + (long)i * keys + j) = power;
            sum[i] += power;
        }
    for (int i = 0; i < rows; i++) {
        share[i] = all(1.0f / sum_of(sum[i]));
        sum[i] = share[i] * (weight == NULL ? 1.0f : weight[i]);
    }
    if (sums)
        for (int j = 0; j < keys; j += LANES) {
            vec column = *(vec *)(total + j);
            for (int i = 0; i < rows; i++) column += *(vec *)(p + (long)i * keys + j) * sum[i];
            *(vec *)(total + j) = column;
        }
    product(mixed, wide, p, keys, x->values, wide, PANEL, x->n, wide, rows);
    for (int i = 0; i < rows; i++) {
        for (int d = 0; d < wide; d += LANES) *(vec *)(mixed + i * wide + d) *= share[i];
        write_row(out, i * out_row, mixed + i * wide, x->width, half);
    }
}

/* One head of one sequence: n queries, n keys. `column` (n) takes the sums of the probabilities' columns, or is NULL. */
static int head(const void *q, const void *k, const void *v, void *out, float *column, const float *bias,
                const float *weight, long q_row, long k_row, long v_row, long out_row, int n, int width, float scale,
                int half) {
    int keys = up(n), wide = up(width), panels = (n + PANEL - 1) / PANEL;
    float *memory = room_for((size_t)panels * PANEL * width + (size_t)keys * (wide + ROWS + 2) + 2 * ROWS * (size_t)wide);
    if (memory == NULL) return 1;
    struct head x = {.turned = memory, .n = n, .keys = keys, .width = width, .wide = wide};
    x.values = x.turned + (size_t)panels * PANEL * width;
    x.p = x.values + (size_t)keys * wide;
    x.shift = x.p + (size_t)ROWS * keys;
    x.total = x.shift + keys;
    x.asking = x.total + keys;
    x.mixed = x.asking + ROWS * wide;
    if (n < keys) memset(x.turned + (size_t)(panels - 1) * PANEL * width, 0, 4 * (size_t)PANEL * width);
    for (int j = 0; j < n; j++) {
        float *row = x.asking; /* free until queries are read */
        float *place = x.turned + (size_t)(j / PANEL) * PANEL * width + j % PANEL;
        read_row(row, k, j * k_row, width, width, half);
        for (int d = 0; d < width; d++) place[d * PANEL] = row[d];
        read_row(x.values + (size_t)j * wide, v, j * v_row, width, wide, half);
    }
    for (int j = 0; j < keys; j++) {
        x.shift[j] = j >= n ? -1e30f : bias == NULL ? 0 : bias[j];
        x.total[j] = 0;
    }
    long size = half ? 2 : 4;
    for (int first = 0; first < n; first += ROWS) {
        const void *own_q = (const char *)q + size * first * q_row;
        void *own_out = (char *)out + size * first * out_row;
        const float *own_weight = weight == NULL ? NULL : weight + first;
#define CASE(r) \
    case r: block(&x, own_q, q_row, own_out, out_row, own_weight, column != NULL, scale, half, r); break;
        switch (n - first) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
            default: block(&x, own_q, q_row, own_out, out_row, own_weight, column != NULL, scale, half, ROWS);
        }
#undef CASE
    }
    if (column != NULL) memcpy(column, x.total, 4 * (size_t)n);
    return 0;
}

/* One head of one sequence for a single query. */
static int head_alone(const void *q, const void *k, const void *v, void *out, const float *bias, long k_row, long v_row,
                      int n, int width, float scale, int half) {
    int keys = up(n), wide = up(width);
    float *memory = room_for((size_t)keys + 3 * (size_t)wide);
    if (memory == NULL) return 1;
    float *p = memory, *asking = p + keys, *row = asking + wide, *mixed = row + wide;
    read_row(asking, q, 0, width, wide, half);
    float most = -1e38f;
    for (int j = 0; j < n; j++) {
        read_row(row, k, j * k_row, width, wide, half);
        vec sum = (vec){};
        for (int d = 0; d < wide; d += LANES) sum += *(vec *)(asking + d) * *(vec *)(row + d);
        p[j] = sum_of(sum) * scale + (bias == NULL ? 0 : bias[j]);
        most = p[j] > most ? p[j] : most;
    }
    for (int j = n; j < keys; j++) p[j] = -1e30f;
    vec sum = (vec){};
    for (int j = 0; j < keys; j += LANES) {
        vec x = exponential(*(vec *)(p + j) - all(most));
        *(vec *)(p + j) = x;
        sum += x;
    }
    memset(mixed, 0, 4 * (size_t)wide);
    for (int j = 0; j < n; j++) {
        read_row(row, v, j * v_row, width, wide, half);
        for (int d = 0; d < wide; d += LANES) *(vec *)(mixed + d) += p[j] * *(vec *)(row + d);
    }
    vec inverse = all(1.0f / sum_of(sum));
    for (int d = 0; d < wide; d += LANES) *(vec *)(mixed + d) *= inverse;
    write_row(out, 0, mixed, width, half);
    return 0;
}

/* q, k, v: rows of heads side by side, `*_row` numbers from row to row; out: (queries, heads * width), dense.
 * starts: (b + 1) where each sequence begins. alone: one query a sequence instead of one a token.
 * columns: (heads, t) room for the sums of columns, or NULL; received: (t) their mean over heads.
 * bias: (t) added to a key's logits, or NULL. weight: (t) what a query's row counts in the columns, or NULL.
 * Returns 0, or 1 where memory ran out. */
int sparsam_attend(const void *q, const void *k, const void *v, void *out, float *columns, float *received,
                   const float *bias, const float *weight, const int64_t *starts, long q_row, long k_row, long v_row,
                   int b, int heads, int width, float scale, int half, int alone, int threads) {
    long size = half ? 2 : 4, t = starts[b], tasks = (long)b * heads, out_row = (long)heads * width;
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) reduction(| : failed) if (threads > 1)
    for (long task = 0; task < tasks; task++) {
        long s = task / heads, h = task % heads, first = starts[s], asks = alone ? s : first;
        int n = (int)(starts[s + 1] - first);
        if (n == 0) continue;
        const char *own_q = (const char *)q + size * (asks * q_row + h * width);
        const char *own_k = (const char *)k + size * (first * k_row + h * width);
        const char *own_v = (const char *)v + size * (first * v_row + h * width);
        char *own_out = (char *)out + size * (asks * out_row + h * width);
        const float *own_bias = bias == NULL ? NULL : bias + first;
        if (alone)
            failed |= head_alone(own_q, own_k, own_v, own_out, own_bias, k_row, v_row, n, width, scale, half);
        else
            failed |= head(own_q, own_k, own_v, own_out, columns == NULL ? NULL : columns + h * t + first, own_bias,
                           weight == NULL ? NULL : weight + first, q_row, k_row, v_row, out_row, n, width, scale, half);
    }
    if (columns != NULL)
        for (long j = 0; j < t; j++) {
            float sum = 0;
            for (int h = 0; h < heads; h++) sum += columns[h * t + j];
            received[j] = sum / heads;
        }
    return failed;
}
