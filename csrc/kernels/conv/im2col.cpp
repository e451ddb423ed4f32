// conv2d by columns: y = activation(batch_norm(conv(x, weight) + bias) + residual) as the product of the weights and
// columns packed part by part (product.hpp); any stride, padding, dilation and groups. The columns' zeros at padding
// are multiplied like any other element, so that an infinite weight there gives NaN as it does in NumPy.
#include "kernels/conv/depthwise.hpp"
#include "kernels/conv/epilogue.hpp"
#include "kernels/conv/format.hpp"
#include "kernels/conv/grouped.hpp"
#include "kernels/conv/product.hpp"
#include "runtime/fp_state.hpp"

namespace fastnn::FASTNN_ISA {
namespace {

// Whether all of it is computed channels-last: where x and y differ, a copy of one of them takes the other's format, of
// channels-last, whose weights are packed, if it can. Depthwise convolution of planes is a product of one row, 13 times
// as long as copies there and back (7x7 96 @28: 1.06 and 0.08 ms).
bool computed_last(const Conv2dArgs& q) {
  const bool depthwise = q.groups > 1 && q.groups == q.c && q.groups == q.o;
  return q.y_last || (q.x_last && q.residual == nullptr) || depthwise;
}

template <class T>
ConvProduct<T> forward_product(const Conv2dArgs& q) {
  const int64_t c = q.c / q.groups, m = q.o / q.groups, taps = q.kh * q.kw;
  ConvProduct<T> r;
  const bool last = computed_last(q);
  r.columns = {c,    q.h,      q.w,      last ? 1 : q.h * q.w, last ? q.w * q.c : q.w, last ? q.c : 1, q.kh,
               q.kw, -q.pad_h, -q.pad_w, q.dilation_h,         q.dilation_w,           q.stride_h,     q.stride_w,
               q.oh, q.ow};
  r.x = static_cast<const T*>(q.x);
  r.weights = {static_cast<const T*>(q.weight), c * taps, taps, q.kw, 1};
  r.y = static_cast<T*>(q.y);
  r.images = q.n, r.groups = q.groups, r.m = m;
  r.x_image = q.c * q.h * q.w, r.x_group = last ? c : c * q.h * q.w, r.weights_group = m * c * taps;
  r.y_image = q.o * q.oh * q.ow, r.y_channel = last ? 1 : q.oh * q.ow;
  r.y_row = last ? q.ow * q.o : q.ow, r.y_pixel = last ? q.o : 1;
  return r;
}

// Channels-last only: elsewhere the weights are read where they lie. With dst null only says how many elements it
// takes.
template <class T>
int64_t pack(const Conv2dArgs& q, const ConvProduct<T>& r, T* dst) {
  if (!computed_last(q)) return 0;
  if (is_depthwise(r)) {
    if (dst) pack_depthwise_weights(r, dst);
    return depthwise_weights_size(r);
  }
  if (is_grouped(r)) {
    if (dst) pack_grouped_weights(r, dst);
    return grouped_weights_size(r);
  }
  if (dst) pack_weights(r, dst);
  return packed_weights_size(r);
}

template <class T>
int64_t pack_bytes(const Conv2dArgs& q, void* packed) {
  return pack(q, forward_product<T>(q), static_cast<T*>(packed)) * static_cast<int64_t>(sizeof(T));
}

template <class T>
void convolve(const Conv2dArgs& q) {
  const runtime::FlushDenormals flush;
  const ConvProduct<T> r = forward_product<T>(q);
  const int64_t unpacked = q.packed ? 0 : pack<T>(q, r, nullptr);
  T* memory = static_cast<T*>(
      runtime::scratch(runtime::Slot::kShared, static_cast<size_t>(unpacked + epilogue_size(q)) * sizeof(T)));
  if (!q.packed) pack(q, r, memory);
  const T* weights = q.packed ? static_cast<const T*>(q.packed) : memory;
  const Epilogue<T> epilogue = prepare_epilogue<T>(q, memory + unpacked);
  const auto columns = [&](T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
    finish_columns(epilogue, y, ld, channel, m, n);
  };
  const auto rows = [&](T* y, int64_t ld, int64_t channel, int64_t m, int64_t n) {
    finish_rows(epilogue, y, ld, channel, m, n);
  };
  if (!computed_last(q))
    product_rows(r, r.weights.w, rows);
  else if (is_depthwise(r))
    depthwise_pixels(r, weights, columns);
  else if (is_grouped(r))
    grouped_pixels(r, weights, columns);
  else
    product_columns(r, weights, columns);
}

}  // namespace

void conv2d_im2col_forward(const Conv2dArgs& args) {
  if (has_bf16(args)) return in_float32(args, conv2d_im2col_forward);
  const auto run = [](const Conv2dArgs& q) { q.dtype == kFloat32 ? convolve<float>(q) : convolve<double>(q); };
  if (computed_last(args)) return in_channels_last(args, run);
  if (!args.x_last) return run(args);
  const Reformatted x(args.n, args.c, args.h, args.w, args.dtype);
  x.read(args.x, true);
  Conv2dArgs q = args;
  q.x = x.memory(), q.x_last = false;
  run(q);
}

int64_t conv2d_im2col_forward_pack(const Conv2dArgs& args, void* packed) {
  return args.dtype == kFloat32 ? pack_bytes<float>(args, packed) : pack_bytes<double>(args, packed);
}

const char* conv2d_im2col_forward_algorithm(const Conv2dArgs& args) {
  if (!computed_last(args)) return "im2col";
  const auto name = [](const auto& r) { return is_depthwise(r) ? "depthwise" : is_grouped(r) ? "grouped" : "im2col"; };
  return args.dtype == kFloat32 ? name(forward_product<float>(args)) : name(forward_product<double>(args));
}

}  // namespace fastnn::FASTNN_ISA
