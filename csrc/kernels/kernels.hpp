// The list of kernels: every op of the compiled backend is declared here, once.
//
// From this list are made the table per instruction set (table.cpp), the dispatch (runtime/dispatch.hpp), the ids that
// programs store, and the names that Python, the tests and the benchmarks see (_core.KERNELS).
// To add a kernel: an argument struct (or one that exists), a line in FASTNN_KERNELS, and a file that defines
// `void <op>_<pass>(const <Args>&)` inside namespace fastnn::FASTNN_ISA.
//
// Rules that every argument struct keeps:
// - POD; the pointers come first and FASTNN_KERNELS states how many, so that a program can move them (program/).
// - A pointer that may be null says so. Sizes and strides count elements. `dtype` is 0 for float32 and 1 for float64.
// - Arrays are dense. 4-D arrays are (n, c, h, w), in memory either in that order or, with channels_last, as n h w c;
//   input and output of one call have the same order. Weights are (o, c / groups, kh, kw) in that order.
// - Outputs do not overlap inputs unless the struct says so. Kernels never check, throw, allocate or know Python:
//   the caller has checked everything, scratch memory comes from runtime/scratch.hpp, threads from runtime/team.hpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fastnn {

enum Dtype : int64_t { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2 };  // the last only where a struct says so

// Element-wise functions that can be an op of their own and the end of a fused one: Y(name, number of parameters, ...).
// The parameters are `alpha` and `beta`, as far as they are counted; activation.hpp gives the formulas. The order is
// that of activation.hpp's has_flat_part and is_exponential.
#define FASTNN_ACTIVATIONS(Y, ...) \
  Y(relu, 0, __VA_ARGS__)          \
  Y(hardtanh, 2, __VA_ARGS__)      \
  Y(threshold, 2, __VA_ARGS__)     \
  Y(hardsigmoid, 0, __VA_ARGS__)   \
  Y(hardswish, 0, __VA_ARGS__)     \
  Y(leaky_relu, 1, __VA_ARGS__)    \
  Y(softsign, 0, __VA_ARGS__)      \
  Y(sigmoid, 0, __VA_ARGS__)       \
  Y(tanh, 0, __VA_ARGS__)          \
  Y(elu, 1, __VA_ARGS__)           \
  Y(selu, 0, __VA_ARGS__)          \
  Y(celu, 1, __VA_ARGS__)          \
  Y(gelu, 0, __VA_ARGS__)          \
  Y(gelu_tanh, 0, __VA_ARGS__)     \
  Y(silu, 0, __VA_ARGS__)          \
  Y(mish, 0, __VA_ARGS__)          \
  Y(softplus, 2, __VA_ARGS__)

enum Activation : int64_t {
  kIdentity = 0,
#define FASTNN_ENUM(name, ...) k_##name,
  FASTNN_ACTIVATIONS(FASTNN_ENUM)
#undef FASTNN_ENUM
};

struct Then {  // the activation that another op ends in, kIdentity for none
  int64_t activation;
  double alpha, beta;
};

struct UnaryArgs {  // y = f(x); y may be x
  const void* x;
  void* y;
  int64_t size, dtype;
  double alpha, beta;
};
struct UnaryBackwardArgs {  // dx = dy * f'(x); dx may be dy
  const void *dy, *x;
  void* dx;
  int64_t size, dtype;
  double alpha, beta;
};
// y = x for x > 0, else weight x; weight (c) belongs to the middle axis of x (n, c, s). Backward: accumulate: dweight
// +=
struct PreluArgs {  // y may be x
  const void *x, *weight;
  void* y;
  int64_t n, c, s, dtype;
};
struct PreluBackwardArgs {  // dx may be dy
  const void *dy, *x, *weight;
  void *dx, *dweight;
  int64_t n, c, s, dtype, accumulate;
};
struct MaxoutArgs {  // y (n, s) = the largest along the middle axis of x (n, pieces, s)
  const void* x;
  void* y;
  int64_t n, pieces, s, dtype;
};
struct MaxoutBackwardArgs {  // dx = dy where x is the first of the largest, else 0
  const void *dy, *x;
  void* dx;
  int64_t n, pieces, s, dtype;
};
struct AddArgs {  // y = activation(a + b); y may be a or b
  const void *a, *b;
  void* y;
  int64_t size, dtype;
  Then then;
};
struct MulArgs {  // y = a * b, or a / b; y may be a or b
  const void *a, *b;
  void* y;
  int64_t size, dtype;
};
// y[i] (m, n) = a[i] (m, k) b[i] (k, n) for each i < count, none of the sizes 0; what is transposed lies as (k, m), (n,
// k)
struct MatmulArgs {
  const void *a, *b;
  void* y;
  int64_t count, m, n, k, dtype, transpose_a, transpose_b;
};
struct ScaleAddArgs {  // y = scale_x * x + scale_y * y; scale_y == 0 does not read y
  const void* x;
  void* y;
  int64_t size, dtype;
  double scale_x, scale_y;
};
struct FillArgs {  // y = value
  void* y;
  int64_t size, dtype;
  double value;
};
struct CopyArgs {  // y[i, j, k, l] = x[i, j, k, l] (or += with accumulate); any strides, in elements
  const void* x;
  void* y;
  int64_t shape[4], x_strides[4], y_strides[4], dtype, accumulate;
};

struct RowsArgs {  // softmax: y = f(x) along each row
  const void* x;
  void* y;
  int64_t rows, cols, dtype;
};
struct RowsBackwardArgs {  // dx = f'(y) applied to dy, from the output y of the forward pass
  const void *dy, *y;
  void* dx;
  int64_t rows, cols, dtype;
};
// Mean cross-entropy of softmax(scores) and its gradient. Either `labels` (int64, rows) or `targets` (rows, cols;
// probabilities) is given and the other is null; class weights (cols), sample weights (rows) may be null. The weighted
// mean divides by the sum of the weights of the rows that count. loss: one double. A label equal to ignore_index
// does not count.
struct CrossEntropyArgs {
  const void* scores;
  const int64_t* labels;
  const void *targets, *weight, *sample_weight;
  double* loss;
  void* dscores;
  int64_t rows, cols, ignore_index, dtype;
  double label_smoothing;
};
// Mean over all elements of a loss of scores and targets (both rows, cols), and its gradient. Sample weights (rows),
// and weight and pos_weight (cols; of binary_cross_entropy_with_logits) may be null; delta is that of huber. loss: one
// double.
struct LossArgs {
  const void *scores, *targets, *sample_weight, *weight, *pos_weight;
  double* loss;
  void* dscores;
  int64_t rows, cols, dtype;
  double delta;
};
// Mean over the rows of sum_{j != label} max(0, s_j - s_label + margin), and its gradient. Class weights (cols) and
// sample weights (rows) may be null.
struct HingeArgs {
  const void* scores;
  const int64_t* labels;
  const void *weight, *sample_weight;
  double* loss;
  void* dscores;
  int64_t rows, cols, ignore_index, dtype;
  double margin;
};

// y = x / (1 - p) where the mask bit is 1, else 0. Bit i of the mask (byte i / 8, bit i % 8) belongs to element i of x
// in memory order. Bits come from Philox4x32-10 with key = seed and counter = (block, stream), see runtime/philox.hpp.
struct DropoutArgs {
  const void* x;
  const uint64_t* key;  // [seed, stream]
  void* y;
  uint8_t* mask;  // (size + 7) / 8 bytes
  int64_t size, dtype;
  double p;
};
struct DropoutBackwardArgs {  // dx = dy / (1 - p) where the mask bit is 1, else 0; dx may be dy
  const void* dy;
  const uint8_t* mask;
  void* dx;
  int64_t size, dtype;
  double p;
};
// Dropout of whole rows: mask bit i, drawn as dropout draws that of element i, belongs to row i of x (rows, cols).
struct StochasticDepthArgs {
  const void* x;
  const uint64_t* key;  // [seed, stream]
  void* y;
  uint8_t* mask;  // (rows + 7) / 8 bytes
  int64_t rows, cols, dtype;
  double p;
};
struct StochasticDepthBackwardArgs {  // dx may be dy
  const void* dy;
  const uint8_t* mask;
  void* dx;
  int64_t rows, cols, dtype;
  double p;
};
struct RandomBitsArgs {  // out = Philox words of counters 0, 1, ... (four words each) under key
  const uint64_t* key;   // [seed, stream]
  uint32_t* out;
  int64_t size;
};

// Batch normalisation over n, h, w. var is the biased variance.
struct BatchNormArgs {  // y = activation((x - mean) / sqrt(var + eps) * weight + bias); y may be x
  const void *x, *mean, *var, *weight, *bias;
  void* y;
  int64_t n, c, h, w, channels_last, dtype;
  double eps;
  Then then;
};
struct BatchNormTrainArgs {  // the same with the batch's own mean and var, which it writes; y += residual, then ReLU
  const void *x, *weight, *bias, *residual;
  void *y, *mean, *var;
  int64_t n, c, h, w, channels_last, dtype, relu;
  double eps;
};
// dx may be dy; frozen: mean and var are constants. y: null, or what forward gave where it ended in ReLU. accumulate:
// dweight, dbias +=
struct BatchNormBackwardArgs {
  const void *dy, *x, *mean, *var, *weight, *y;
  void *dx, *dweight, *dbias;
  int64_t n, c, h, w, channels_last, dtype, frozen, accumulate;
  double eps;
};

// Group normalisation over c / groups channels and h, w of each image: layer norm is h = w = 1 with one group, instance
// norm c groups. weight, bias (c) may be null. statistics: (n, groups, 2) doubles, mean and biased variance.
struct GroupNormArgs {  // y = (x - mean) / sqrt(var + eps) * weight + bias; y may be x
  const void *x, *weight, *bias;
  void* y;
  double* statistics;
  int64_t n, c, h, w, groups, channels_last, dtype;
  double eps;
};
struct GroupNormBackwardArgs {  // weight, dweight, dbias may be null. accumulate: dweight, dbias +=
  const void *dy, *x;
  const double* statistics;
  const void* weight;
  void *dx, *dweight, *dbias;
  int64_t n, c, h, w, groups, channels_last, dtype, accumulate;
  double eps;
};

// Pooling. Padding is never the maximum and counts in no average unless count_include_pad.
// argmax: position kh * KW + kw inside the window, one byte (argmax_bytes 1, windows up to 255) or int32 (4); may be
// null. max_pool2d_forward takes kBfloat16 too, channels-last and without argmax.
struct Pool2dArgs {
  const void* x;
  void *y, *argmax;
  int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t channels_last, dtype, argmax_bytes, count_include_pad, divisor;  // divisor: of an average, 0 its window's own
};
struct Pool2dBackwardArgs {
  const void *dy, *argmax;  // argmax is null for average pooling
  void* dx;
  int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t channels_last, dtype, argmax_bytes, count_include_pad, divisor;
};
// Window i of an axis is floor(i in / out) to ceil((i + 1) in / out). argmax: h * W + w in the plane, may be null.
struct AdaptivePoolArgs {
  const void* x;
  void* y;
  int64_t* argmax;
  int64_t n, c, h, w, oh, ow, channels_last, dtype;
};
struct AdaptivePoolBackwardArgs {
  const void* dy;
  const int64_t* argmax;  // null for average pooling
  void* dx;
  int64_t n, c, h, w, oh, ow, channels_last, dtype;
};
struct GlobalPoolArgs {  // forward: x (n, c, h, w) -> y (n, c); backward: x is dy (n, c), y is dx (n, c, h, w)
  const void* x;
  void* y;
  int64_t n, c, h, w, channels_last, dtype;
};

// y = activation(batch_norm(conv(x, w) + bias) + residual), all parts but conv optional (null). packed: null, or what
// the packer of this kernel made of the weight; the weight is there all the same.
struct Conv2dArgs {
  const void *x, *weight, *bias, *gamma, *beta, *mean, *var, *residual, *packed;
  void* y;
  int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int64_t x_last, y_last, dtype;          // channels-last; the residual lies as y
  int64_t parts;                          // bfloat16 parts of a float on tiles: 3 is float32, 2 and 1 are faster
  int64_t x_bf16, residual_bf16, y_bf16;  // arrays of bfloat16, channels-last; only with one part, dtype is float32
  double eps;
  Then then;
};
// Three convolutions: 1x1 from c to `hidden` channels with expand_then (none of it where expand_weight is null; then c
// == hidden), depthwise kh x kw of these with depthwise_then, 1x1 to o channels; y = then(that + residual). Biases and
// residual may be null; weights lie as those of conv2d.
struct InvertedResidualArgs {
  const void *x, *expand_weight, *expand_bias, *depthwise_weight, *depthwise_bias, *weight, *bias, *residual, *packed;
  void* y;
  int64_t n, c, h, w, hidden, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w;
  int64_t x_last, y_last, dtype, parts;  // as those of conv2d
  Then expand_then, depthwise_then, then;
};
struct Conv2dBackwardArgs {  // dx, dweight, dbias may each be null. accumulate: dweight, dbias +=
  const void *dy, *x, *weight;
  void *dx, *dweight, *dbias;
  int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int64_t channels_last, dtype, accumulate;
};
// y (n, o, oh, ow) = activation(transposed convolution of x (n, c, h, w) + bias): what a convolution from y to x has as
// dx, from x as its dy. weight is (c, o / groups, kh, kw); bias (o) may be null.
struct ConvTranspose2dArgs {
  const void *x, *weight, *bias;
  void* y;
  int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
  int64_t channels_last, dtype;
  Then then;
};
struct Im2colArgs {  // im2col: x (n, c, h, w) -> y (n, c * kh * kw, oh * ow); col2im: the transpose, summing
  const void* x;
  void* y;
  int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, dtype;
};
// A sparse matrix for each of two axes: y[o, i, j, k] = sum over the taps t of column j, of weight t times the sum over
// the taps s of row i, of weight s times x[o, index s, index t, k]. The taps of i are begin[i] .. begin[i + 1]; a row
// or a column without taps is `value`. Columns first .. last have one tap of weight 1 each, at neighbouring indices.
// Null tables (all three): the identity. x (outer, h, w, inner), y (outer, oh, ow, inner).
struct ResampleArgs {
  const void* x;
  const int64_t *row_begin, *row_index;
  const void* row_weight;
  const int64_t *column_begin, *column_index;
  const void* column_weight;
  void* y;
  int64_t outer, h, w, inner, oh, ow, column_first, column_last, dtype;
  double value;
};
struct LinearArgs {  // y (rows, out) = activation(x (rows, in) @ weight (out, in)^T + bias); packed as in Conv2dArgs
  const void *x, *weight, *bias, *packed;
  void* y;
  int64_t rows, in, out, dtype, parts;  // parts as in Conv2dArgs
  Then then;
};
struct LinearBackwardArgs {  // dx, dweight, dbias may each be null. accumulate: dweight, dbias +=
  const void *dy, *x, *weight;
  void *dx, *dweight, *dbias;
  int64_t rows, in, out, dtype, accumulate;
};

// One optimizer step over a flat buffer. hyper points to doubles, so that a program can change them between runs.
// segments: n_segments rows of four doubles (begin, end, rate factor, weight decay); rate factor 0 is frozen.
struct SgdArgs {  // hyper = [lr, momentum, nesterov, weight-decay factor]; velocity may be null
  const void* grad;
  const double *hyper, *segments;
  void *param, *velocity;
  int64_t n_segments, dtype;
};
struct AdagradArgs {  // hyper = [lr, eps]
  const void* grad;
  const double *hyper, *segments;
  void *param, *sum;
  int64_t n_segments, dtype;
};
struct RmspropArgs {  // hyper = [lr, alpha, eps, momentum]; velocity may be null
  const void* grad;
  const double *hyper, *segments;
  void *param, *square, *velocity;
  int64_t n_segments, dtype;
};
struct AdamArgs {  // hyper = [lr, beta1, beta2, eps, step (1-based), decoupled]
  const void* grad;
  const double *hyper, *segments;
  void *param, *m, *v;
  int64_t n_segments, dtype;
};

// What is done to a flat buffer besides the step, in place. segments as above; where not said otherwise those with a
// rate factor of 0 are left alone. loss, total and limit: one double each.
struct PenaltyArgs {  // rows (begin, end, l1, l2): loss += sum l1 |p| + l2 / 2 p^2; grad (or null) += l1 sign(p) + l2 p
  const void* param;
  const double* segments;
  void* grad;
  double* loss;
  int64_t n_segments, dtype;
};
struct SquareSumArgs {  // total += sum of x^2
  const void* x;
  const double* segments;
  double* total;
  int64_t n_segments, dtype;
};
struct ClipNormArgs {  // x *= min(1, limit / (sqrt(total) + 1e-6))
  const double *total, *limit, *segments;
  void* x;
  int64_t n_segments, dtype;
};
struct ClipValueArgs {  // x clamped to +-limit
  const double *limit, *segments;
  void* x;
  int64_t n_segments, dtype;
};
struct MaxNormArgs {  // rows (begin, end, outer, inner, limit): units of outer x inner elements get norm limit at most
  const double* segments;
  void* param;
  int64_t n_segments, dtype;
};

// X(kernel, argument struct, number of pointers that the struct begins with)
#define FASTNN_ACTIVATION_KERNELS(name, parameters, X) \
  X(name##_forward, UnaryArgs, 2)                      \
  X(name##_backward, UnaryBackwardArgs, 3)

#define FASTNN_KERNELS(X)                                      \
  FASTNN_ACTIVATIONS(FASTNN_ACTIVATION_KERNELS, X)             \
  X(prelu_forward, PreluArgs, 3)                               \
  X(prelu_backward, PreluBackwardArgs, 5)                      \
  X(maxout_forward, MaxoutArgs, 2)                             \
  X(maxout_backward, MaxoutBackwardArgs, 3)                    \
  X(exp_forward, UnaryArgs, 2)                                 \
  X(sqrt_forward, UnaryArgs, 2)                                \
  X(add_forward, AddArgs, 3)                                   \
  X(mul_forward, MulArgs, 3)                                   \
  X(div_forward, MulArgs, 3)                                   \
  X(scale_add, ScaleAddArgs, 2)                                \
  X(fill, FillArgs, 1)                                         \
  X(copy, CopyArgs, 2)                                         \
  X(softmax_forward, RowsArgs, 2)                              \
  X(softmax_backward, RowsBackwardArgs, 3)                     \
  X(log_softmax_forward, RowsArgs, 2)                          \
  X(log_softmax_backward, RowsBackwardArgs, 3)                 \
  X(cross_entropy, CrossEntropyArgs, 7)                        \
  X(hinge, HingeArgs, 6)                                       \
  X(mse, LossArgs, 7)                                          \
  X(l1, LossArgs, 7)                                           \
  X(huber, LossArgs, 7)                                        \
  X(binary_cross_entropy_with_logits, LossArgs, 7)             \
  X(dropout_forward, DropoutArgs, 4)                           \
  X(dropout_backward, DropoutBackwardArgs, 3)                  \
  X(stochastic_depth_forward, StochasticDepthArgs, 4)          \
  X(stochastic_depth_backward, StochasticDepthBackwardArgs, 3) \
  X(random_bits, RandomBitsArgs, 2)                            \
  X(batch_norm_forward, BatchNormArgs, 6)                      \
  X(batch_norm_train_forward, BatchNormTrainArgs, 7)           \
  X(batch_norm_backward, BatchNormBackwardArgs, 9)             \
  X(group_norm_forward, GroupNormArgs, 5)                      \
  X(group_norm_backward, GroupNormBackwardArgs, 7)             \
  X(max_pool2d_forward, Pool2dArgs, 3)                         \
  X(max_pool2d_backward, Pool2dBackwardArgs, 3)                \
  X(avg_pool2d_forward, Pool2dArgs, 3)                         \
  X(avg_pool2d_backward, Pool2dBackwardArgs, 3)                \
  X(adaptive_max_pool2d_forward, AdaptivePoolArgs, 3)          \
  X(adaptive_max_pool2d_backward, AdaptivePoolBackwardArgs, 3) \
  X(adaptive_avg_pool2d_forward, AdaptivePoolArgs, 3)          \
  X(adaptive_avg_pool2d_backward, AdaptivePoolBackwardArgs, 3) \
  X(global_avg_pool2d_forward, GlobalPoolArgs, 2)              \
  X(global_avg_pool2d_backward, GlobalPoolArgs, 2)             \
  X(conv2d_forward, Conv2dArgs, 10)                            \
  X(conv2d_im2col_forward, Conv2dArgs, 10)                     \
  X(conv2d_amx_forward, Conv2dArgs, 10)                        \
  X(conv2d_winograd_forward, Conv2dArgs, 10)                   \
  X(inverted_residual_forward, InvertedResidualArgs, 10)       \
  X(inverted_residual_amx_forward, InvertedResidualArgs, 10)   \
  X(conv2d_backward, Conv2dBackwardArgs, 6)                    \
  X(conv2d_im2col_backward, Conv2dBackwardArgs, 6)             \
  X(conv2d_amx_backward, Conv2dBackwardArgs, 6)                \
  X(conv_transpose2d_forward, ConvTranspose2dArgs, 4)          \
  X(im2col_forward, Im2colArgs, 2)                             \
  X(col2im_forward, Im2colArgs, 2)                             \
  X(resample, ResampleArgs, 8)                                 \
  X(matmul_forward, MatmulArgs, 3)                             \
  X(linear_forward, LinearArgs, 5)                             \
  X(linear_backward, LinearBackwardArgs, 6)                    \
  X(sgd_step, SgdArgs, 5)                                      \
  X(adam_step, AdamArgs, 6)                                    \
  X(adagrad_step, AdagradArgs, 5)                              \
  X(rmsprop_step, RmspropArgs, 6)                              \
  X(penalty, PenaltyArgs, 4)                                   \
  X(square_sum, SquareSumArgs, 3)                              \
  X(clip_norm, ClipNormArgs, 4)                                \
  X(clip_value, ClipValueArgs, 3)                              \
  X(max_norm, MaxNormArgs, 2)

// X(kernel, argument struct): kernels that lay their weight out anew at each call, and for which a program has it done
// once. `<kernel>_pack` returns the bytes that it takes, 0 where this call packs nothing, and writes it unless packed
// is null; the struct has the members weight and packed.
#define FASTNN_PACKERS(X)                                \
  X(conv2d_forward, Conv2dArgs)                          \
  X(conv2d_im2col_forward, Conv2dArgs)                   \
  X(conv2d_amx_forward, Conv2dArgs)                      \
  X(conv2d_winograd_forward, Conv2dArgs)                 \
  X(inverted_residual_forward, InvertedResidualArgs)     \
  X(inverted_residual_amx_forward, InvertedResidualArgs) \
  X(linear_forward, LinearArgs)

// X(kernel, argument struct): kernels that stand for several algorithms. `<kernel>_algorithm` names the one that
// computes this call, from all of the struct but the pointers (and whether they are null).
#define FASTNN_CHOOSERS(X)                               \
  X(conv2d_forward, Conv2dArgs)                          \
  X(conv2d_im2col_forward, Conv2dArgs)                   \
  X(conv2d_amx_forward, Conv2dArgs)                      \
  X(conv2d_winograd_forward, Conv2dArgs)                 \
  X(inverted_residual_forward, InvertedResidualArgs)     \
  X(inverted_residual_amx_forward, InvertedResidualArgs) \
  X(linear_forward, LinearArgs)

enum KernelId : int32_t {
#define FASTNN_ID(name, Args, pointers) kKernel_##name,
  FASTNN_KERNELS(FASTNN_ID)
#undef FASTNN_ID
      kKernelCount
};

// One instruction set's kernels.
struct KernelTable {
  const char* isa;
#define FASTNN_MEMBER(name, Args, pointers) void (*name)(const Args&);
  FASTNN_KERNELS(FASTNN_MEMBER)
#undef FASTNN_MEMBER
#define FASTNN_MEMBER(name, Args) int64_t (*name##_pack)(const Args&, void* packed);
  FASTNN_PACKERS(FASTNN_MEMBER)
#undef FASTNN_MEMBER
#define FASTNN_MEMBER(name, Args) const char* (*name##_algorithm)(const Args&);
  FASTNN_CHOOSERS(FASTNN_MEMBER)
#undef FASTNN_MEMBER
};

}  // namespace fastnn

// Inside a kernel file (compiled once per instruction set): the declarations of this set.
#ifdef FASTNN_ISA
namespace fastnn::FASTNN_ISA {
#define FASTNN_DECLARE(name, Args, pointers) void name(const Args&);
FASTNN_KERNELS(FASTNN_DECLARE)
#undef FASTNN_DECLARE
#define FASTNN_DECLARE(name, Args) int64_t name##_pack(const Args&, void* packed);
FASTNN_PACKERS(FASTNN_DECLARE)
#undef FASTNN_DECLARE
#define FASTNN_DECLARE(name, Args) const char* name##_algorithm(const Args&);
FASTNN_CHOOSERS(FASTNN_DECLARE)
#undef FASTNN_DECLARE
}  // namespace fastnn::FASTNN_ISA

// Defines kernel `name` from the template `name##_of<T>` of the same file.
#define FASTNN_DEFINE(name, Args) \
  void name(const Args& args) { args.dtype == kFloat32 ? name##_of<float>(args) : name##_of<double>(args); }
#endif
