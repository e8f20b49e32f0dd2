// A matrix memory token by token, forwards and backwards: what execute/recurrence.py calls.
//
//     W_t = W_{t-1} Diag(d_t) + r_t e_t k_t^T - s_t b_t^T          o_t = W_t q_t, or W_{t-1} q_t
//
//     Hebbian    e_t = v_t                   s_t = 0
//     delta      e_t = v_t - W_{t-1} p_t     s_t = 0      p_t = k_t or d_t * k_t: the point of the gradient
//     removal    e_t = v_t                   s_t = W_{t-1} p_t
//
// Arrays are contiguous: q, k, p, b (B, T, H, K), v, out (B, T, H, V), r (B, T, H), d (B, T, H) or (B, T, H, K),
// W (B, H, V, K), kept (B, H, N, V, K). Rows of W do not see each other, so some of them at a time go through all tokens in
// the cache.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int BYTES = 64;
constexpr int64_t AHEAD = 4, SPAN = 32;  // tokens: asked for in advance; whose states the cache holds

// Rows of a weight that are in work at a time, by fours: as many as the cache holds.
constexpr int64_t rows_of(int vectors) { return vectors <= 4 ? 64 : vectors <= 8 ? 32 : 16; }

template <class S> struct Lanes {
    typedef S Vec __attribute__((vector_size(BYTES), may_alias));
    typedef S Four __attribute__((vector_size(4 * sizeof(S))));
    static constexpr int count = BYTES / sizeof(S);
};
template <class S> using Vec = typename Lanes<S>::Vec;
template <class S> using Four = typename Lanes<S>::Four;

#if defined(__clang__)
#define SHUFFLE8(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define SHUFFLE16(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int64_t Places8 __attribute__((vector_size(BYTES)));
typedef int32_t Places16 __attribute__((vector_size(BYTES)));
#define SHUFFLE8(a, b, ...) __builtin_shuffle(a, b, Places8{__VA_ARGS__})
#define SHUFFLE16(a, b, ...) __builtin_shuffle(a, b, Places16{__VA_ARGS__})
#endif

// The sums of four vectors' lanes, by halves: two into one, and again, then within.
inline Four<float> sums(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c, const Vec<float>& d) {
    const Vec<float> x = SHUFFLE16(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                         SHUFFLE16(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vec<float> y = SHUFFLE16(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                         SHUFFLE16(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    Vec<float> z = SHUFFLE16(x, y, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                   SHUFFLE16(x, y, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    z += SHUFFLE16(z, z, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    z += SHUFFLE16(z, z, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return Four<float>{z[0], z[4], z[8], z[12]};
}

inline Four<double> sums(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c, const Vec<double>& d) {
    const Vec<double> x = SHUFFLE8(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE8(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    const Vec<double> y = SHUFFLE8(c, d, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE8(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    Vec<double> z = SHUFFLE8(x, y, 0, 1, 4, 5, 8, 9, 12, 13) + SHUFFLE8(x, y, 2, 3, 6, 7, 10, 11, 14, 15);
    z += SHUFFLE8(z, z, 1, 0, 3, 2, 5, 4, 7, 6);
    return Four<double>{z[0], z[2], z[4], z[6]};
}

// Four numbers of an array, of which there may be fewer.
template <class S> inline Four<S> load4(const S* from, int64_t there) {
    Four<S> x{};
    if (there >= 4) std::memcpy(&x, from, sizeof x);
    else std::memcpy(&x, from, there * sizeof(S));
    return x;
}
template <class S> inline void store4(S* to, const Four<S>& x, int64_t there) {
    if (there >= 4) std::memcpy(to, &x, sizeof x);
    else std::memcpy(to, &x, there * sizeof(S));
}

// N vectors that hold `size` numbers, and zeros beyond.
template <class S, int N> struct Line {
    Vec<S> part[N];

    static constexpr int count = Lanes<S>::count;

    void zero() {
        for (int i = 0; i < N; ++i) part[i] = Vec<S>{};
    }
    void fill(S value, int64_t size) {
        for (int64_t i = 0; i < N * count; ++i) part[i / count][i % count] = i < size ? value : S(0);
    }
    void load(const S* from, int64_t size) {
        if (size == N * count) {
            std::memcpy(part, from, sizeof part);
        } else {
            part[N - 1] = Vec<S>{};
            if (N > 1 && size <= (N - 1) * count) zero();
            std::memcpy(part, from, size * sizeof(S));
        }
    }
    void store(S* to, int64_t size) const { std::memcpy(to, part, size * sizeof(S)); }
    void add_to(S* to, int64_t size) const {
        if (size == N * count) {
            for (int i = 0; i < N; ++i) {
                Vec<S> x;
                std::memcpy(&x, to + i * count, sizeof x);
                x += part[i];
                std::memcpy(to + i * count, &x, sizeof x);
            }
        } else {
            for (int64_t i = 0; i < size; ++i) to[i] += part[i / count][i % count];
        }
    }
};

template <class S, int N> inline Vec<S> partial(const Line<S, N>& a, const Line<S, N>& b) {
    Vec<S> all = a.part[0] * b.part[0];
    for (int j = 1; j < N; ++j) all += a.part[j] * b.part[j];
    return all;
}

// The products of four lines with one.
template <class S, int N> inline Four<S> products(const Line<S, N>* four, const Line<S, N>& one) {
    return sums(partial(four[0], one), partial(four[1], one), partial(four[2], one), partial(four[3], one));
}

enum Rule { HEBBIAN, DELTA, REMOVAL };

struct Sizes {
    int64_t batch, time, heads, key, value, every;
    Rule rule;
    bool retained, after, channel;
};

template <class S> struct Arrays {
    const S *q, *k, *v, *r, *d, *start, *p, *b;
    const int64_t* lengths;
    S* kept;
};

// What a token brings along besides its value.
template <class S, int N, Rule RULE> struct Token {
    Line<S, N> q, k, d, p, b;
    S r;

    void load(const Sizes& z, const Arrays<S>& a, int64_t at, bool reads) {
        if (reads) q.load(a.q + at * z.key, z.key);
        k.load(a.k + at * z.key, z.key);
        r = a.r[at];
        if (z.channel) {
            d.load(a.d + at * z.key, z.key);
        } else {
            for (int i = 0; i < N; ++i) d.part[i] = Vec<S>{} + a.d[at];
        }
        if (RULE == DELTA) {
            for (int i = 0; i < N; ++i) p.part[i] = z.retained ? k.part[i] * d.part[i] : k.part[i];
        }
        if (RULE == REMOVAL) {
            p.load(a.p + at * z.key, z.key);
            b.load(a.b + at * z.key, z.key);
        }
    }
};

// Four rows of W_t from those of W_{t-1}.
template <class S, int N, Rule RULE>
inline void advance(const Line<S, N>* w, Line<S, N>* next, const Token<S, N, RULE>& x, Four<S> u, Four<S> s) {
    for (int j = 0; j < N; ++j) {
        for (int n = 0; n < 4; ++n) {
            Vec<S> made = w[n].part[j] * x.d.part[j] + u[n] * x.k.part[j];
            if (RULE == REMOVAL) made -= s[n] * x.b.part[j];
            next[n].part[j] = made;
        }
    }
}

// Asks for the cache lines of `size` numbers, so that they are there some tokens later: heads lie between the tokens of
// one head, which the processor does not foresee.
template <class S> inline void prefetch(const S* from, int64_t size) {
    for (int64_t i = 0; i < size; i += Lanes<S>::count) __builtin_prefetch(from + i);
}

template <class S, int N, Rule RULE>
void forward(const Sizes& z, const Arrays<S>& a, S* out, S* end, int64_t row, int64_t head) {
    const int64_t time = a.lengths ? a.lengths[row] : z.time, place = row * z.heads + head;
    const int64_t chunks = z.every ? (z.time + z.every - 1) / z.every : 0;
    Line<S, N> own[rows_of(N)];
    Token<S, N, RULE> x;
    for (int64_t first = 0; first < z.value; first += rows_of(N)) {
        const int64_t rows = std::min(rows_of(N), z.value - first), block = (place * z.value + first) * z.key;
        // A single token is done where the weights are, if they lie as lines do.
        const bool there = z.time == 1 && a.start == end && z.key == N * Lanes<S>::count && rows % 4 == 0 &&
                           reinterpret_cast<std::uintptr_t>(end) % BYTES == 0;
        Line<S, N>* w = there ? reinterpret_cast<Line<S, N>*>(end + block) : own;
        for (int64_t i = 0; i < rows_of(N) && !there; ++i) {
            if (i < rows) own[i].load(a.start + block + i * z.key, z.key);
            else own[i].zero();
        }
        for (int64_t t = 0; t < time; ++t) {
            if (a.kept && t % z.every == 0) {
                S* to = a.kept + ((place * chunks + t / z.every) * z.value + first) * z.key;
                for (int64_t i = 0; i < rows; ++i) w[i].store(to + i * z.key, z.key);
            }
            const int64_t at = (row * z.time + t) * z.heads + head, here = at * z.value + first;
            if (t + AHEAD < time) {
                const int64_t later = at + AHEAD * z.heads;
                prefetch(a.q + later * z.key, z.key);
                prefetch(a.k + later * z.key, z.key);
                prefetch(a.v + later * z.value + first, rows);
                if (z.channel) prefetch(a.d + later * z.key, z.key);
            }
            x.load(z, a, at, true);
            for (int64_t i = 0; i < rows; i += 4) {
                if (!z.after) store4(out + here + i, products(w + i, x.q), rows - i);
                Four<S> e = load4(a.v + here + i, rows - i), s{};
                if (RULE != HEBBIAN) s = products(w + i, x.p);
                if (RULE == DELTA) e -= s;
                advance(w + i, w + i, x, x.r * e, s);
                if (z.after) store4(out + here + i, products(w + i, x.q), rows - i);
            }
        }
        for (int64_t i = 0; i < rows && !there; ++i) own[i].store(end + block + i * z.key, z.key);
    }
}

template <class S> struct Gradients {
    const S *out, *end;
    S *q, *k, *v, *r, *d, *start, *p, *b;
};

template <class S, int N, Rule RULE>
void backward(const Sizes& z, const Arrays<S>& a, const Gradients<S>& grad, std::vector<Line<S, N>>& states,
              std::vector<Four<S>>& known, int64_t row, int64_t head) {
    const int64_t time = a.lengths ? a.lengths[row] : z.time, place = row * z.heads + head;
    const int64_t chunks = (z.time + z.every - 1) / z.every;
    constexpr int64_t ROWS = rows_of(N);
    Line<S, N> g[ROWS];
    Token<S, N, RULE> x;
    Line<S, N> now[ROWS];
    states.resize((SPAN + z.every / SPAN) * ROWS);
    Line<S, N>* const marks = &states[SPAN * ROWS];  // the state before each span of the chunk
    known.resize(z.every * ROWS / 4);                 // e of the delta rule, s of a removal
    for (int64_t first = 0; first < z.value; first += ROWS) {
        const int64_t rows = std::min(ROWS, z.value - first), block = (place * z.value + first) * z.key;
        for (int64_t i = 0; i < ROWS; ++i) {
            if (grad.end && i < rows) g[i].load(grad.end + block + i * z.key, z.key);
            else g[i].zero();
        }
        for (int64_t chunk = (time + z.every - 1) / z.every - 1; chunk >= 0; --chunk) {
            const int64_t begin = chunk * z.every, stop = std::min(begin + z.every, time);
            const S* from = a.kept + ((place * chunks + chunk) * z.value + first) * z.key;
            for (int64_t i = 0; i < ROWS; ++i) {
                if (i < rows) now[i].load(from + i * z.key, z.key);
                else now[i].zero();
            }
            for (int64_t t = begin; t < stop; ++t) {
                const int64_t at = (row * z.time + t) * z.heads + head, here = at * z.value + first;
                if (t + AHEAD < stop) {
                    const int64_t later = at + AHEAD * z.heads;
                    prefetch(a.k + later * z.key, z.key);
                    prefetch(a.v + later * z.value + first, rows);
                    if (z.channel) prefetch(a.d + later * z.key, z.key);
                }
                if ((t - begin) % SPAN == 0) std::copy(now, now + ROWS, marks + (t - begin) / SPAN * ROWS);
                x.load(z, a, at, false);
                for (int64_t i = 0; i < rows; i += 4) {
                    Four<S> e = load4(a.v + here + i, rows - i), s{};
                    if (RULE != HEBBIAN) s = products(now + i, x.p);
                    if (RULE == DELTA) e -= s;
                    known[((t - begin) * ROWS + i) / 4] = RULE == DELTA ? e : s;
                    advance(now + i, now + i, x, x.r * e, s);
                }
            }
            for (int64_t t = stop - 1; t >= begin; --t) {
                const int64_t span = begin + (t - begin) / SPAN * SPAN;
                if (t == stop - 1 || t == span + SPAN - 1) {  // the last of a span: the states of its tokens again
                    std::copy(marks + (span - begin) / SPAN * ROWS, marks + ((span - begin) / SPAN + 1) * ROWS,
                              states.begin());
                    for (int64_t of = span; of < t; ++of) {
                        const int64_t at = (row * z.time + of) * z.heads + head, here = at * z.value + first;
                        x.load(z, a, at, false);
                        Line<S, N>* w = &states[(of - span) * ROWS];
                        for (int64_t i = 0; i < rows; i += 4) {
                            const Four<S> s = known[((of - begin) * ROWS + i) / 4];
                            const Four<S> e = RULE == DELTA ? s : load4(a.v + here + i, rows - i);
                            advance(w + i, w + ROWS + i, x, x.r * e, s);
                        }
                    }
                }
                const int64_t at = (row * z.time + t) * z.heads + head, here = at * z.value + first;
                if (t - AHEAD >= 0) {
                    const int64_t later = at - AHEAD * z.heads;
                    prefetch(a.q + later * z.key, z.key);
                    prefetch(grad.out + later * z.value + first, rows);
                }
                x.load(z, a, at, true);
                const Line<S, N>* w = &states[(t - span) * ROWS];
                Line<S, N> dq, dk, dd, dp, db;
                dq.zero(), dk.zero(), dd.zero(), dp.zero(), db.zero();
                Four<S> dr{}, of_k{}, of_b{};
                for (int64_t i = 0; i < rows; i += 4) {
                    const Four<S> asked = load4(grad.out + here + i, rows - i);
                    const Four<S> s = known[((t - begin) * ROWS + i) / 4];
                    const Four<S> e = RULE == DELTA ? s : load4(a.v + here + i, rows - i), u = x.r * e;
                    if (z.after) {
                        for (int n = 0; n < 4; ++n) {
                            for (int j = 0; j < N; ++j) g[i + n].part[j] += asked[n] * x.q.part[j];
                        }
                    }
                    const Four<S> du = products(g + i, x.k), de = x.r * du;
                    const Four<S> taken = RULE == REMOVAL ? products(g + i, x.b) : de;
                    store4(grad.v + here + i, de, rows - i);
                    dr += du * e;
                    of_k += asked * u;
                    if (RULE == REMOVAL) of_b += asked * s;
                    for (int j = 0; j < N; ++j) {
                        for (int n = 0; n < 4; ++n) {
                            const Vec<S> before = w[i + n].part[j], of_next = g[i + n].part[j];
                            dq.part[j] += asked[n] * before;
                            dk.part[j] += u[n] * of_next;
                            dd.part[j] += of_next * before;
                            Vec<S> of_this = of_next * x.d.part[j];
                            if (RULE != HEBBIAN) {
                                dp.part[j] -= taken[n] * before;
                                of_this -= taken[n] * x.p.part[j];
                            }
                            if (RULE == REMOVAL) db.part[j] -= s[n] * of_next;
                            g[i + n].part[j] = of_this;
                        }
                    }
                    if (!z.after) {
                        for (int n = 0; n < 4; ++n) {
                            for (int j = 0; j < N; ++j) g[i + n].part[j] += asked[n] * x.q.part[j];
                        }
                    }
                }
                const S by_k = of_k[0] + of_k[1] + of_k[2] + of_k[3], by_b = of_b[0] + of_b[1] + of_b[2] + of_b[3];
                for (int j = 0; j < N; ++j) {
                    if (z.after) {  // what was read is W_t, not W_{t-1}
                        dq.part[j] = dq.part[j] * x.d.part[j] + by_k * x.k.part[j];
                        if (RULE == REMOVAL) dq.part[j] -= by_b * x.b.part[j];
                    }
                    if (RULE == DELTA) {
                        dk.part[j] += z.retained ? dp.part[j] * x.d.part[j] : dp.part[j];
                        if (z.retained) dd.part[j] += dp.part[j] * x.k.part[j];
                    }
                }
                dq.add_to(grad.q + at * z.key, z.key);
                dk.add_to(grad.k + at * z.key, z.key);
                grad.r[at] += dr[0] + dr[1] + dr[2] + dr[3];
                if (RULE == REMOVAL) {
                    dp.add_to(grad.p + at * z.key, z.key);
                    db.add_to(grad.b + at * z.key, z.key);
                }
                if (z.channel) {
                    dd.add_to(grad.d + at * z.key, z.key);
                } else {
                    for (int j = 1; j < N; ++j) dd.part[0] += dd.part[j];
                    grad.d[at] += sums(dd.part[0], Vec<S>{}, Vec<S>{}, Vec<S>{})[0];
                }
            }
        }
        for (int64_t i = 0; i < rows; ++i) g[i].store(grad.start + block + i * z.key, z.key);
    }
}

// work(row, head) for each, over several threads.
template <class Work> void share_out(const Sizes& z, int64_t threads, Work work) {
    const int64_t all = z.batch * z.heads;
    std::atomic<int64_t> next{0};
    auto run = [&] {
        auto own = work();
        for (int64_t i = next++; i < all; i = next++) own(i / z.heads, i % z.heads);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(threads, all); ++i) others.emplace_back(run);
    run();
    for (auto& other : others) other.join();
}

template <class S, int N, Rule RULE>
void run(const Sizes& z, const Arrays<S>& a, S* out, S* end, const Gradients<S>* grad, int64_t threads) {
    if (grad) {
        share_out(z, threads, [&] {
            return [&, states = std::vector<Line<S, N>>(), known = std::vector<Four<S>>()](int64_t row,
                                                                                           int64_t head) mutable {
                backward<S, N, RULE>(z, a, *grad, states, known, row, head);
            };
        });
    } else {
        share_out(z, threads, [&] {
            return [&](int64_t row, int64_t head) { forward<S, N, RULE>(z, a, out, end, row, head); };
        });
    }
}

template <class S, int N>
bool fits(const Sizes& z, const Arrays<S>& a, S* out, S* end, const Gradients<S>* grad, int64_t threads) {
    if (z.key > N * Lanes<S>::count) return false;
    switch (z.rule) {
        case HEBBIAN: run<S, N, HEBBIAN>(z, a, out, end, grad, threads); break;
        case DELTA: run<S, N, DELTA>(z, a, out, end, grad, threads); break;
        case REMOVAL: run<S, N, REMOVAL>(z, a, out, end, grad, threads); break;
    }
    return true;
}

// By the narrowest line that holds a key; false if none does.
template <class S>
bool any_width(const Sizes& z, const Arrays<S>& a, S* out, S* end, const Gradients<S>* grad, int64_t threads) {
    return fits<S, 1>(z, a, out, end, grad, threads) || fits<S, 2>(z, a, out, end, grad, threads) ||
           fits<S, 4>(z, a, out, end, grad, threads) || fits<S, 6>(z, a, out, end, grad, threads) ||
           fits<S, 8>(z, a, out, end, grad, threads) || fits<S, 16>(z, a, out, end, grad, threads);
}

// n: batch, time, heads, key, value, every, rule, flags, threads, then the addresses of lengths, q, k, v, r, d, start, p, b
// and kept; then of out and end; or of the gradients of out and end, and of q, k, v, r, d, start, p, b.
template <class S> int call(const int64_t* n, bool back) {
    const Sizes z{n[0], n[1], n[2], n[3], n[4], n[5], Rule(n[6]), bool(n[7] & 1), bool(n[7] & 2), bool(n[7] & 4)};
    const auto x = [n](int i) { return reinterpret_cast<S*>(n[10 + i]); };
    const Arrays<S> a{x(0), x(1), x(2), x(3), x(4), x(5), x(6), x(7), reinterpret_cast<const int64_t*>(n[9]), x(8)};
    if (!back) return any_width<S>(z, a, x(9), x(10), nullptr, n[8]) ? 0 : 1;
    const Gradients<S> grad{x(9), x(10), x(11), x(12), x(13), x(14), x(15), x(16), x(17), x(18)};
    return any_width<S>(z, a, nullptr, nullptr, &grad, n[8]) ? 0 : 1;
}

}  // namespace

extern "C" {
int forward(const int64_t* n) { return call<REAL>(n, false); }
int backward(const int64_t* n) { return call<REAL>(n, true); }
}
