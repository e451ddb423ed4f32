// batch_norm over n, h, w (legend in norm.hpp).
//   y = (x - mean) / sqrt(var + eps) * weight + bias, inference with an activation on top, training with a residual
//       added to it and with a ReLU
//   dx = weight / sqrt(var + eps) * (dy - sum(dy) / m - xhat * sum(dy * xhat) / m), frozen without the two sums
// Saved for backward: x, mean, var, and y where it ended in a ReLU: dy is then zero where y is not positive; what goes
// back to a residual is relu_backward's. y may be x, dx may be dy. weight, bias null: 1, 0; dweight, dbias null: not
// wanted.
// Sums are float64 throughout, of x less a value of its own channel, so a mean of 1e4 costs var nothing; y subtracts
// the mean rounded to T first and puts the rest of it into the shift. NaN and inf as NumPy; m = 0 gives NaN statistics.
// Planes: a channel is summed and written while it is in L2.
#include "kernels/norm.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

constexpr int64_t kManyChannels = 16;  // enough to give each channel to one task

template <bool gated>
struct Gated {
  static constexpr bool value = gated;
};

template <class Args>
FASTNN_INLINE Layout layout_of(const Args& a) {
  return layout_of(a.n, a.c, a.h * a.w, a.channels_last != 0);
}

// ---- sums, then finish(channel, s, q), which fills the table, then the write pass ----

template <Pass pass, Activation kind, bool gated, class T, class Finish>
FASTNN_INLINE void reduce_and_write(const Layout& l, const T* x, const T* dy, T* y, const T* gate,
                                    const Table<T>& table, double* sums, Finish finish) {
  constexpr bool backward = !is_forward(pass);
  if (!gated) gate = x;  // not read
  if (!l.rows && (l.c >= kManyChannels || l.size <= kChunk)) {
    const int64_t group = l.m > 0 ? min_of((kChunk + l.m - 1) / l.m, l.c) : l.c;  // channels of a task
    const bool streaming = writes_past_caches(l, x, dy, y);
    parallel_for((l.c + group - 1) / group, l.size / (backward ? 1 : 2), [&](int64_t task) {
      for (int64_t c = task * group; c < min_of((task + 1) * group, l.c); ++c) {
        double s, q;
        sum_planes<T, backward, gated>(l, x + c * l.s, dy + c * l.s, table.mean[c], 0, l.m, &s, &q, gate + c * l.s);
        finish(c, s, q);
        const Entry<T> e = entry_of(table, c);
        for (int64_t n = 0, at = c * l.s; n < l.n; ++n, at += l.c * l.s)
          write_run<pass, kind, gated>(x + at, dy + at, y + at, l.s, e, {e.mean, e.mean}, streaming, gate + at);
      }
      if (streaming) stream_fence();
    });
    return;
  }
  sum_all<backward, gated>(l, x, dy, table, sums, finish, gate);
  if (l.rows) repeat_all(l, table);
  if (l.size > 0) write_all<pass, kind, gated>(l, x, dy, y, table, Then{kind, 0, 0}, gate);
}

// ---- exported ----

template <class T>
static void batch_norm_forward_of(const BatchNormArgs& a) {
  const T *x = static_cast<const T*>(a.x), *mean = static_cast<const T*>(a.mean), *var = static_cast<const T*>(a.var);
  T* y = static_cast<T*>(a.y);
  if (a.n * a.c * a.h * a.w == 0) return;
  const Layout l = layout_of(a);
  double* sums;
  const Table<T> table = table_of<T>(runtime::Slot::kShared, l, 0, sums);
  for (int64_t c = 0; c < l.c; ++c) {
    const double scale = value_or<T>(a.weight, c, 1.0) / std::sqrt(static_cast<double>(var[c]) + a.eps);
    set_entry(table, c, static_cast<double>(mean[c]), scale, value_or<T>(a.bias, c, 0.0));
  }
  repeat_all(l, table);
  const auto write = [&](auto tag) { write_all<Pass::kForward, tag.value>(l, x, x, y, table, a.then); };
  if (is_exponential(a.then.activation)) {
    const runtime::FlushDenormals flush;
    write(Tag<kIdentity>{});
  } else if (!with_cheap_activation(a.then.activation, write)) {
    write(Tag<kIdentity>{});
  }
}

template <class T>
static void batch_norm_train_forward_of(const BatchNormTrainArgs& a) {
  const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual);
  T *mean = static_cast<T*>(a.mean), *var = static_cast<T*>(a.var);
  if (a.c == 0) return;
  const Layout l = layout_of(a);
  const double m = static_cast<double>(l.m);
  double* sums;
  const Table<T> table = table_of<T>(runtime::Slot::kShared, l, sums_of(l), sums);
  if (l.m > 0)
    for (int64_t c = 0; c < l.c; ++c) {
      const int64_t middle = l.n / 2 * l.s + l.s / 2, last = l.m - 1;
      table.mean[c] = shift_of(x[offset_of(l, c, 0)], x[offset_of(l, c, middle)], x[offset_of(l, c, last)]);
    }
  repeat(l, table.mean);
  const auto finish = [&](int64_t c, double s, double q) {
    const double mu = static_cast<double>(table.mean[c]) + s / m, excess = (q - s * (s / m)) / m;
    const double v = excess < 0.0 ? 0.0 : excess;
    mean[c] = static_cast<T>(mu);
    var[c] = static_cast<T>(v);
    set_entry(table, c, mu, value_or<T>(a.weight, c, 1.0) / std::sqrt(v + a.eps), value_or<T>(a.bias, c, 0.0));
  };
  const auto run = [&](auto tag) {
    T* y = static_cast<T*>(a.y);
    residual ? reduce_and_write<Pass::kForwardAdd, tag.value, false>(l, x, residual, y, x, table, sums, finish)
             : reduce_and_write<Pass::kForward, tag.value, false>(l, x, x, y, x, table, sums, finish);
  };
  a.relu ? run(Tag<k_relu>{}) : run(Tag<kIdentity>{});
}

template <class T>
static void batch_norm_backward_of(const BatchNormBackwardArgs& a) {
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  const T *mean = static_cast<const T*>(a.mean), *var = static_cast<const T*>(a.var), *y = static_cast<const T*>(a.y);
  T *dx = static_cast<T*>(a.dx), *dweight = static_cast<T*>(a.dweight), *dbias = static_cast<T*>(a.dbias);
  if (a.c == 0) return;
  const Layout l = layout_of(a);
  const double m = static_cast<double>(l.m);
  double* sums;
  const Table<T> table = table_of<T>(runtime::Slot::kShared, l, sums_of(l), sums);
  for (int64_t c = 0; c < l.c; ++c) table.mean[c] = mean[c];
  repeat(l, table.mean);
  const auto finish = [&](int64_t c, double s, double q) {
    const double inverse = 1.0 / std::sqrt(static_cast<double>(var[c]) + a.eps);
    const double gain = value_or<T>(a.weight, c, 1.0) * inverse;
    if (dweight) dweight[c] = static_cast<T>((a.accumulate ? static_cast<double>(dweight[c]) : 0.0) + q * inverse);
    if (dbias) dbias[c] = static_cast<T>((a.accumulate ? static_cast<double>(dbias[c]) : 0.0) + s);
    table.gain[c] = static_cast<T>(gain);
    table.scale[c] = static_cast<T>(-gain * inverse * inverse * (q / m));
    table.shift[c] = static_cast<T>(-gain * (s / m));
  };
  const auto run = [&](auto gated) {
    a.frozen ? reduce_and_write<Pass::kFrozen, kIdentity, gated.value>(l, x, dy, dx, y, table, sums, finish)
             : reduce_and_write<Pass::kBackward, kIdentity, gated.value>(l, x, dy, dx, y, table, sums, finish);
  };
  y ? run(Gated<true>{}) : run(Gated<false>{});
}

}  // namespace

FASTNN_DEFINE(batch_norm_forward, BatchNormArgs)
FASTNN_DEFINE(batch_norm_train_forward, BatchNormTrainArgs)
FASTNN_DEFINE(batch_norm_backward, BatchNormBackwardArgs)

}  // namespace fastnn::FASTNN_ISA
