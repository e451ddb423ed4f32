# cython: language_level=3, binding=True, embedsignature=False, boundscheck=False, wraparound=False
# cython: initializedcheck=False, cdivision=True, freethreading_compatible=True
# distutils: language = c++
"""The binding: nothing but pointers, shapes and one table call.

Every function takes arrays that ``functional.py`` has checked and allocated: dense, aligned, native float32 or float64,
no overlap that the kernel does not allow. Called with anything else these functions may crash; they are not public.
Inputs come first, then options, then the outputs. Names, order and meaning are those of ``reference.py``.
To bind a new kernel: its struct in the extern block, and a ``def`` that fills it.
"""
cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from libcpp.vector cimport vector

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    int PyArray_SetBaseObject(cnp.ndarray, object) except -1
    object PyArray_NewFromDescr(type, cnp.dtype, int, cnp.npy_intp*, cnp.npy_intp*, void*, int, object)
    bint PyArray_IS_C_CONTIGUOUS(cnp.ndarray)
    bint PyArray_IS_F_CONTIGUOUS(cnp.ndarray)
    bint PyArray_ISALIGNED(cnp.ndarray)
    bint PyArray_ISNOTSWAPPED(cnp.ndarray)
    bint PyArray_ISWRITEABLE(cnp.ndarray)
    bint PyArray_CheckExact(object)
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void*, int)

cdef extern from "kernels/kernels.hpp" namespace "fastnn" nogil:
    ctypedef struct Then:
        int64_t activation
        double alpha, beta
    ctypedef struct UnaryArgs:
        const void* x
        void* y
        int64_t size, dtype
        double alpha, beta
    ctypedef struct UnaryBackwardArgs:
        const void* dy
        const void* x
        void* dx
        int64_t size, dtype
        double alpha, beta
    ctypedef struct PreluArgs:
        const void* x
        const void* weight
        void* y
        int64_t n, c, s, dtype
    ctypedef struct PreluBackwardArgs:
        const void* dy
        const void* x
        const void* weight
        void* dx
        void* dweight
        int64_t n, c, s, dtype, accumulate
    ctypedef struct MaxoutArgs:
        const void* x
        void* y
        int64_t n, pieces, s, dtype
    ctypedef struct MaxoutBackwardArgs:
        const void* dy
        const void* x
        void* dx
        int64_t n, pieces, s, dtype
    ctypedef struct AddArgs:
        const void* a
        const void* b
        void* y
        int64_t size, dtype
        Then then
    ctypedef struct MulArgs:
        const void *a
        const void *b
        void *y
        int64_t size, dtype
    ctypedef struct MatmulArgs:
        const void *a
        const void *b
        void *y
        int64_t count, m, n, k, dtype, transpose_a, transpose_b
    ctypedef struct ScaleAddArgs:
        const void* x
        void* y
        int64_t size, dtype
        double scale_x, scale_y
    ctypedef struct FillArgs:
        void* y
        int64_t size, dtype
        double value
    ctypedef struct CopyArgs:
        const void* x
        void* y
        int64_t[4] shape
        int64_t[4] x_strides
        int64_t[4] y_strides
        int64_t dtype, accumulate
    ctypedef struct RowsArgs:
        const void* x
        void* y
        int64_t rows, cols, dtype
    ctypedef struct RowsBackwardArgs:
        const void* dy
        const void* y
        void* dx
        int64_t rows, cols, dtype
    ctypedef struct CrossEntropyArgs:
        const void* scores
        const int64_t* labels
        const void* targets
        const void* weight
        const void* sample_weight
        double* loss
        void* dscores
        int64_t rows, cols, ignore_index, dtype
        double label_smoothing
    ctypedef struct LossArgs:
        const void* scores
        const void* targets
        const void* sample_weight
        const void* weight
        const void* pos_weight
        double* loss
        void* dscores
        int64_t rows, cols, dtype
        double delta
    ctypedef struct HingeArgs:
        const void* scores
        const int64_t* labels
        const void* weight
        const void* sample_weight
        double* loss
        void* dscores
        int64_t rows, cols, ignore_index, dtype
        double margin
    ctypedef struct DropoutArgs:
        const void* x
        const uint64_t* key
        void* y
        uint8_t* mask
        int64_t size, dtype
        double p
    ctypedef struct DropoutBackwardArgs:
        const void* dy
        const uint8_t* mask
        void* dx
        int64_t size, dtype
        double p
    ctypedef struct StochasticDepthArgs:
        const void* x
        const uint64_t* key
        void* y
        uint8_t* mask
        int64_t rows, cols, dtype
        double p
    ctypedef struct StochasticDepthBackwardArgs:
        const void* dy
        const uint8_t* mask
        void* dx
        int64_t rows, cols, dtype
        double p
    ctypedef struct RandomBitsArgs:
        const uint64_t* key
        uint32_t* out
        int64_t size
    ctypedef struct BatchNormArgs:
        const void* x
        const void* mean
        const void* var
        const void* weight
        const void* bias
        void* y
        int64_t n, c, h, w, channels_last, dtype
        double eps
        Then then
    ctypedef struct BatchNormTrainArgs:
        const void* x
        const void* weight
        const void* bias
        const void* residual
        void* y
        void* mean
        void* var
        int64_t n, c, h, w, channels_last, dtype, relu
        double eps
    ctypedef struct BatchNormBackwardArgs:
        const void* dy
        const void* x
        const void* mean
        const void* var
        const void* weight
        const void* y
        void* dx
        void* dweight
        void* dbias
        int64_t n, c, h, w, channels_last, dtype, frozen, accumulate
        double eps
    ctypedef struct GroupNormArgs:
        const void* x
        const void* weight
        const void* bias
        void* y
        double* statistics
        int64_t n, c, h, w, groups, channels_last, dtype
        double eps
    ctypedef struct GroupNormBackwardArgs:
        const void* dy
        const void* x
        const double* statistics
        const void* weight
        void* dx
        void* dweight
        void* dbias
        int64_t n, c, h, w, groups, channels_last, dtype, accumulate
        double eps
    ctypedef struct Pool2dArgs:
        const void* x
        void* y
        void* argmax
        int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w
        int64_t channels_last, dtype, argmax_bytes, count_include_pad, divisor
    ctypedef struct Pool2dBackwardArgs:
        const void* dy
        const void* argmax
        void* dx
        int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w
        int64_t channels_last, dtype, argmax_bytes, count_include_pad, divisor
    ctypedef struct AdaptivePoolArgs:
        const void* x
        void* y
        int64_t* argmax
        int64_t n, c, h, w, oh, ow, channels_last, dtype
    ctypedef struct AdaptivePoolBackwardArgs:
        const void* dy
        const int64_t* argmax
        void* dx
        int64_t n, c, h, w, oh, ow, channels_last, dtype
    ctypedef struct GlobalPoolArgs:
        const void* x
        void* y
        int64_t n, c, h, w, channels_last, dtype
    ctypedef struct Conv2dArgs:
        const void* x
        const void* weight
        const void* bias
        const void* gamma
        const void* beta
        const void* mean
        const void* var
        const void* residual
        const void* packed
        void* y
        int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups
        int64_t x_last, y_last, dtype, parts, x_bf16, residual_bf16, y_bf16
        double eps
        Then then
    ctypedef struct InvertedResidualArgs:
        const void* x
        const void* expand_weight
        const void* expand_bias
        const void* depthwise_weight
        const void* depthwise_bias
        const void* weight
        const void* bias
        const void* residual
        const void* packed
        void* y
        int64_t n, c, h, w, hidden, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w
        int64_t x_last, y_last, dtype, parts
        Then expand_then
        Then depthwise_then
        Then then
    ctypedef struct Conv2dBackwardArgs:
        const void* dy
        const void* x
        const void* weight
        void* dx
        void* dweight
        void* dbias
        int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups
        int64_t channels_last, dtype, accumulate
    ctypedef struct ConvTranspose2dArgs:
        const void* x
        const void* weight
        const void* bias
        void* y
        int64_t n, c, h, w, o, kh, kw, oh, ow, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups
        int64_t channels_last, dtype
        Then then
    ctypedef struct Im2colArgs:
        const void* x
        void* y
        int64_t n, c, h, w, oh, ow, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, dtype
    ctypedef struct ResampleArgs:
        const void* x
        const int64_t* row_begin
        const int64_t* row_index
        const void* row_weight
        const int64_t* column_begin
        const int64_t* column_index
        const void* column_weight
        void* y
        int64_t outer, h, w, inner, oh, ow, column_first, column_last, dtype
        double value
    ctypedef struct LinearArgs:
        const void* x
        const void* weight
        const void* bias
        const void* packed
        void* y
        int64_t rows, in_ "in", out, dtype, parts
        Then then
    ctypedef struct LinearBackwardArgs:
        const void* dy
        const void* x
        const void* weight
        void* dx
        void* dweight
        void* dbias
        int64_t rows, in_ "in", out, dtype, accumulate
    ctypedef struct SgdArgs:
        const void* grad
        const double* hyper
        const double* segments
        void* param
        void* velocity
        int64_t n_segments, dtype
    ctypedef struct AdamArgs:
        const void* grad
        const double* hyper
        const double* segments
        void* param
        void* m
        void* v
        int64_t n_segments, dtype
    ctypedef struct AdagradArgs:
        const void* grad
        const double* hyper
        const double* segments
        void* param
        void* sum
        int64_t n_segments, dtype
    ctypedef struct RmspropArgs:
        const void* grad
        const double* hyper
        const double* segments
        void* param
        void* square
        void* velocity
        int64_t n_segments, dtype
    ctypedef struct PenaltyArgs:
        const void* param
        const double* segments
        void* grad
        double* loss
        int64_t n_segments, dtype
    ctypedef struct SquareSumArgs:
        const void* x
        const double* segments
        double* total
        int64_t n_segments, dtype
    ctypedef struct ClipNormArgs:
        const double* total
        const double* limit
        const double* segments
        void* x
        int64_t n_segments, dtype
    ctypedef struct ClipValueArgs:
        const double* limit
        const double* segments
        void* x
        int64_t n_segments, dtype
    ctypedef struct MaxNormArgs:
        const double* segments
        void* param
        int64_t n_segments, dtype
    ctypedef struct KernelTable:
        const char* isa
    int kKernelCount
    int kIdentity
    int kKernel_prelu_forward
    int kKernel_prelu_backward
    int kKernel_maxout_forward
    int kKernel_maxout_backward
    int kKernel_exp_forward
    int kKernel_sqrt_forward
    int kKernel_add_forward
    int kKernel_mul_forward
    int kKernel_div_forward
    int kKernel_scale_add
    int kKernel_fill
    int kKernel_copy
    int kKernel_softmax_forward
    int kKernel_softmax_backward
    int kKernel_log_softmax_forward
    int kKernel_log_softmax_backward
    int kKernel_cross_entropy
    int kKernel_hinge
    int kKernel_mse
    int kKernel_l1
    int kKernel_huber
    int kKernel_binary_cross_entropy_with_logits
    int kKernel_dropout_forward
    int kKernel_dropout_backward
    int kKernel_stochastic_depth_forward
    int kKernel_stochastic_depth_backward
    int kKernel_random_bits
    int kKernel_batch_norm_forward
    int kKernel_batch_norm_train_forward
    int kKernel_batch_norm_backward
    int kKernel_group_norm_forward
    int kKernel_group_norm_backward
    int kKernel_max_pool2d_forward
    int kKernel_max_pool2d_backward
    int kKernel_avg_pool2d_forward
    int kKernel_avg_pool2d_backward
    int kKernel_adaptive_max_pool2d_forward
    int kKernel_adaptive_max_pool2d_backward
    int kKernel_adaptive_avg_pool2d_forward
    int kKernel_adaptive_avg_pool2d_backward
    int kKernel_global_avg_pool2d_forward
    int kKernel_global_avg_pool2d_backward
    int kKernel_conv2d_forward
    int kKernel_conv2d_im2col_forward
    int kKernel_conv2d_amx_forward
    int kKernel_conv2d_winograd_forward
    int kKernel_inverted_residual_forward
    int kKernel_inverted_residual_amx_forward
    int kKernel_conv2d_backward
    int kKernel_conv2d_im2col_backward
    int kKernel_conv2d_amx_backward
    int kKernel_conv_transpose2d_forward
    int kKernel_im2col_forward
    int kKernel_col2im_forward
    int kKernel_resample
    int kKernel_matmul_forward
    int kKernel_linear_forward
    int kKernel_linear_backward
    int kKernel_sgd_step
    int kKernel_adam_step
    int kKernel_adagrad_step
    int kKernel_rmsprop_step
    int kKernel_penalty
    int kKernel_square_sum
    int kKernel_clip_norm
    int kKernel_clip_value
    int kKernel_max_norm

cdef extern from "runtime/dispatch.hpp" namespace "fastnn::runtime" nogil:
    ctypedef void (*AnyKernel)(const KernelTable*, const void*) noexcept
    int table_count()
    const KernelTable* table_at(int)
    const KernelTable* table_named(const char*)
    const KernelTable* active_table()
    void set_active_table(const KernelTable*)
    AnyKernel kernel_call(int)
    const char* kernel_name(int)
    const char* kernel_algorithm(const KernelTable*, int, const void*)
    int activation_count()
    const char* activation_name(int)
    int activation_parameters(int)

cdef extern from "runtime/cpu.hpp" namespace "fastnn::runtime" nogil:
    const char* cpu_lacks(const char*)

cdef extern from "runtime/team.hpp" namespace "fastnn::runtime" nogil:
    int c_num_threads "fastnn::runtime::num_threads"()
    void c_set_num_threads "fastnn::runtime::set_num_threads"(int)
    void stop_workers()

cdef extern from "runtime/threads.hpp" namespace "fastnn::runtime" nogil:
    int c_default_threads "fastnn::runtime::default_threads"(const char**)
    int kMaxThreads

cdef extern from "runtime/pool.hpp" namespace "fastnn::runtime" nogil:
    void* pool_allocate(size_t)
    void pool_free(void*, size_t)
    size_t pool_cached_bytes()
    void pool_release()

cdef extern from "runtime/scratch.hpp" namespace "fastnn::runtime" nogil:
    void release_scratch()

cdef extern from "program/program.hpp" namespace "fastnn::program" nogil:
    cdef cppclass CProgram "fastnn::program::Program":
        CProgram() except +
        void* allocate(size_t) except +
        void release(void*)
        void* add_input(size_t) except +
        void* add_output(size_t) except +
        void add_constant(const void*, size_t, bint) except +
        bint append(int, const void*) except +
        void finish()
        void run(void**, void**, int64_t*) except +
        void release_idle()
        size_t steps()
        int kernel(size_t)
        const char* algorithm(size_t)
        size_t arena_bytes()
        const char* isa()

cdef extern from "sources.hpp" nogil:
    const char* FASTNN_SOURCES

cdef extern from *:
    """
    // The program that this thread is recording, if any, as the C++ object and as its owner.
    static thread_local fastnn::program::Program* recorder = nullptr;
    static thread_local PyObject* recording = nullptr;
    """
    CProgram* recorder
    PyObject* recording

# The stamp of the sources that this was built from; see _sources.py.
SOURCES = FASTNN_SOURCES.decode()
# A tuple of (name, id): what the registry of tests and benchmarks is compared with.
KERNELS = tuple(kernel_name(i).decode() for i in range(kKernelCount))
cdef dict ACTIVATIONS = {None: kIdentity, **{activation_name(i).decode(): i for i in range(1, activation_count())}}


# ---- memory ----

# From this size on, memory comes from the pool: touching a fresh page costs more than the work on it;
# below, NumPy's own allocator recycles.
cdef enum:
    POOLED = 1 << 16


@cython.final
@cython.freelist(64)
@cython.no_gc_clear
cdef class _Block:
    """Owns a block of the pool or an address of a program; arrays refer to it as their base."""
    cdef void* data
    cdef size_t nbytes
    cdef Program program

    def __dealloc__(self):
        if self.data == NULL:
            return
        if self.program is None:
            pool_free(self.data, self.nbytes)
        else:
            self.program.program.release(self.data)


cdef object wrap(object base, void* data, int ndim, cnp.npy_intp* shape, cnp.npy_intp* strides, cnp.dtype dtype):
    Py_INCREF(dtype)  # the call steals it
    array = PyArray_NewFromDescr(cnp.ndarray, dtype, ndim, shape, strides, data,
                                 cnp.NPY_ARRAY_WRITEABLE | cnp.NPY_ARRAY_ALIGNED, None)
    Py_INCREF(base)  # this one too
    PyArray_SetBaseObject(array, base)
    return array


def empty(tuple shape, cnp.dtype dtype, bint channels_last=False):
    """A new array, C-contiguous or, for four dimensions, channels-last; large ones are recycled."""
    cdef cnp.npy_intp dims[32]
    cdef cnp.npy_intp strides[32]
    cdef int i, ndim = len(shape)
    cdef cnp.npy_intp itemsize = dtype.itemsize
    cdef size_t nbytes = itemsize
    cdef double size = itemsize
    cdef _Block block
    for i in range(ndim):
        dims[i] = shape[i]
        nbytes *= dims[i]
        size *= dims[i]
    if size > 2.0**47:  # nbytes may have wrapped around; let NumPy refuse it
        return cnp.PyArray_EMPTY(ndim, dims, dtype.type_num, 0)
    if recorder == NULL and nbytes < POOLED:
        if not channels_last:
            return cnp.PyArray_EMPTY(ndim, dims, dtype.type_num, 0)
        dims[1], dims[2], dims[3] = dims[2], dims[3], dims[1]
        return cnp.PyArray_EMPTY(4, dims, dtype.type_num, 0).transpose(0, 3, 1, 2)
    if channels_last:
        strides[1] = itemsize
        strides[3] = dims[1] * itemsize
        strides[2] = dims[3] * strides[3]
        strides[0] = dims[2] * strides[2]
    else:
        for i in range(ndim - 1, -1, -1):
            strides[i] = itemsize
            itemsize *= dims[i]
    block = _Block.__new__(_Block)
    block.nbytes = nbytes
    if recorder != NULL:
        block.data = recorder.allocate(nbytes)
        block.program = <Program><object>recording
    else:
        block.data = pool_allocate(nbytes)
    if block.data == NULL:
        raise MemoryError(f"no memory for an array of shape {shape} and dtype {dtype}")
    return wrap(block, block.data, ndim, dims, strides, dtype)


def empty_like(cnp.ndarray x):
    """A new array of the shape, dtype and memory format of the dense array x."""
    if PyArray_IS_C_CONTIGUOUS(x):
        return empty((<object>x).shape, x.descr, False)
    if is_channels_last(x):
        return empty((<object>x).shape, x.descr, True)
    return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)


cdef bint is_channels_last(cnp.ndarray x) noexcept:
    """Whether x lies in memory as n h w c without gaps (strides of axes of length one do not matter)."""
    cdef cnp.npy_intp* dims = x.shape
    cdef cnp.npy_intp* strides = x.strides
    cdef cnp.npy_intp step = x.descr.itemsize
    cdef int k
    cdef int[4] order = [1, 3, 2, 0]
    if x.ndim != 4:
        return False
    for k in range(4):
        if dims[order[k]] != 1 and strides[order[k]] != step:
            return False
        step *= dims[order[k]]
    return True


cpdef int layout(x) noexcept:
    """How x can be used: 0 C-contiguous, 1 channels-last, 2 dense in another order, 3 strided, -1 not a ready array.

    Ready: exactly an ndarray, float32 or float64, native byte order, aligned.
    """
    cdef cnp.ndarray a
    if not PyArray_CheckExact(x):
        return -1
    a = <cnp.ndarray>x
    if a.descr.type_num != cnp.NPY_FLOAT and a.descr.type_num != cnp.NPY_DOUBLE:
        return -1
    if not PyArray_ISALIGNED(a) or not PyArray_ISNOTSWAPPED(a):
        return -1
    if PyArray_IS_C_CONTIGUOUS(a):
        return 0
    if is_channels_last(a):
        return 1
    return 2 if PyArray_IS_F_CONTIGUOUS(a) else 3


def fits(x, out):
    """Whether an element-wise kernel can write out from x as they are: both ready, C-contiguous or both channels-last,
    of one shape and dtype, out writeable, and the same memory or none in common."""
    cdef int kind = layout(x)
    cdef cnp.ndarray a, b
    cdef int i
    cdef size_t nbytes
    if kind < 0 or kind > 1 or layout(out) != kind:
        return False
    a, b = <cnp.ndarray>x, <cnp.ndarray>out
    if a.descr.type_num != b.descr.type_num or a.ndim != b.ndim or not PyArray_ISWRITEABLE(b):
        return False
    for i in range(a.ndim):
        if a.shape[i] != b.shape[i]:
            return False
    if a.data == b.data:
        return True
    nbytes = cnp.PyArray_NBYTES(a)
    return a.data + nbytes <= b.data or b.data + nbytes <= a.data


cdef inline void* data(object x) noexcept:
    """The pointer of an array; NULL for None."""
    return NULL if x is None else (<cnp.ndarray>x).data


cdef inline int64_t code(object x) noexcept:
    """kFloat32 or kFloat64."""
    return (<cnp.ndarray>x).descr.type_num == cnp.NPY_DOUBLE


cdef inline int64_t is_bf16(object x) noexcept:
    """Whether x is an array of bfloat16, which NumPy has no dtype for: programs keep them in those of uint16."""
    return x is not None and (<cnp.ndarray>x).descr.type_num == cnp.NPY_UINT16


cdef inline int64_t last(object x, object y) noexcept:
    """channels_last for a call on x and y: set when either is not in C order."""
    return not (PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>x) and PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>y))


cdef inline int64_t size(object x) noexcept:
    return cnp.PyArray_SIZE(<cnp.ndarray>x)


cdef inline cnp.npy_intp* dims(object x) noexcept:
    return (<cnp.ndarray>x).shape


cdef inline int64_t parts() noexcept:
    """Of a float on tiles: as many as the program wants that this thread records, else all three."""
    return 3 if recorder == NULL else (<Program><object>recording).parts


cdef int call(int kernel, const void* args) except -1:
    """One kernel: run now, or append to the program that this thread records."""
    cdef const KernelTable* table
    cdef AnyKernel f
    if recorder != NULL:
        if not recorder.append(kernel, args):
            raise RuntimeError(f"recording {kernel_name(kernel).decode()}: an array belongs neither to the program nor "
                               "to its constants")
        return 0
    table = active_table()
    f = kernel_call(kernel)
    with nogil:
        f(table, args)
    return 0


# ---- kernels: inputs, options, outputs ----

cdef int unary(int kernel, x, y, double alpha=0, double beta=0) except -1:
    cdef UnaryArgs a
    a.x, a.y, a.size, a.dtype, a.alpha, a.beta = data(x), data(y), size(x), code(x), alpha, beta
    return call(kernel, &a)


cdef int unary_backward(int kernel, dy, x, dx, double alpha=0, double beta=0) except -1:
    cdef UnaryBackwardArgs a
    a.dy, a.x, a.dx, a.size, a.dtype = data(dy), data(x), data(dx), size(x), code(x)
    a.alpha, a.beta = alpha, beta
    return call(kernel, &a)


def _forward(int kernel, int parameters):
    """The function of an activation's forward kernel."""
    def none(x, y):
        unary(kernel, x, y)

    def one(x, double alpha, y):
        unary(kernel, x, y, alpha)

    def two(x, double alpha, double beta, y):
        unary(kernel, x, y, alpha, beta)

    return (none, one, two)[parameters]


def _backward(int kernel, int parameters):
    """The function of an activation's backward kernel."""
    def none(dy, x, dx):
        unary_backward(kernel, dy, x, dx)

    def one(dy, x, double alpha, dx):
        unary_backward(kernel, dy, x, dx, alpha)

    def two(dy, x, double alpha, double beta, dx):
        unary_backward(kernel, dy, x, dx, alpha, beta)

    return (none, one, two)[parameters]


for _name, _i in ACTIVATIONS.items():  # relu_forward, relu_backward, ...: all that the list of activations has
    if _name is not None:
        for _pass, _make in (("forward", _forward), ("backward", _backward)):
            globals()[f"{_name}_{_pass}"] = _make(KERNELS.index(f"{_name}_{_pass}"), activation_parameters(_i))


cdef Then ending(activation) except *:
    """What a fused op ends in, from None or (name, parameters...)."""
    cdef Then then
    then.activation, then.alpha, then.beta = kIdentity, 0, 0
    if activation is not None:
        then.activation = ACTIVATIONS[activation[0]]
        if len(activation) > 1:
            then.alpha = activation[1]
        if len(activation) > 2:
            then.beta = activation[2]
    return then


def exp_forward(x, y):
    unary(kKernel_exp_forward, x, y)


def sqrt_forward(x, y):
    unary(kKernel_sqrt_forward, x, y)


def prelu_forward(x, weight, y):
    """x of shape (n, c, s), in memory C-contiguous."""
    cdef PreluArgs a
    a.x, a.weight, a.y, a.dtype = data(x), data(weight), data(y), code(x)
    a.n, a.c, a.s = dims(x)[0], dims(x)[1], dims(x)[2]
    call(kKernel_prelu_forward, &a)


def prelu_backward(dy, x, weight, bint accumulate, dx, dweight):
    cdef PreluBackwardArgs a
    a.dy, a.x, a.weight, a.dx, a.dweight = data(dy), data(x), data(weight), data(dx), data(dweight)
    a.n, a.c, a.s, a.dtype, a.accumulate = dims(x)[0], dims(x)[1], dims(x)[2], code(x), accumulate
    call(kKernel_prelu_backward, &a)


def maxout_forward(x, y):
    """x of shape (n, pieces, s)."""
    cdef MaxoutArgs a
    a.x, a.y, a.n, a.pieces, a.s, a.dtype = data(x), data(y), dims(x)[0], dims(x)[1], dims(x)[2], code(x)
    call(kKernel_maxout_forward, &a)


def maxout_backward(dy, x, dx):
    cdef MaxoutBackwardArgs a
    a.dy, a.x, a.dx, a.n, a.pieces, a.s = data(dy), data(x), data(dx), dims(x)[0], dims(x)[1], dims(x)[2]
    a.dtype = code(x)
    call(kKernel_maxout_backward, &a)


def add_forward(a, b, activation, y):
    cdef AddArgs args
    args.a, args.b, args.y, args.size, args.dtype = data(a), data(b), data(y), size(y), code(y)
    args.then = ending(activation)
    call(kKernel_add_forward, &args)


def mul_forward(a, b, y):
    cdef MulArgs args
    args.a, args.b, args.y, args.size, args.dtype = data(a), data(b), data(y), size(y), code(y)
    call(kKernel_mul_forward, &args)


def div_forward(a, b, y):
    cdef MulArgs args
    args.a, args.b, args.y, args.size, args.dtype = data(a), data(b), data(y), size(y), code(y)
    call(kKernel_div_forward, &args)


def scale_add(x, double scale_x, double scale_y, y):
    cdef ScaleAddArgs a
    a.x, a.y, a.size, a.dtype, a.scale_x, a.scale_y = data(x), data(y), size(y), code(y), scale_x, scale_y
    call(kKernel_scale_add, &a)


def fill(double value, y):
    cdef FillArgs a
    a.y, a.size, a.dtype, a.value = data(y), size(y), code(y), value
    call(kKernel_fill, &a)


def copy(cnp.ndarray x, bint accumulate, cnp.ndarray y):
    """x and y of one shape, at most four dimensions, any strides."""
    cdef CopyArgs a
    cdef int i, lead = 4 - x.ndim
    for i in range(4):
        a.shape[i], a.x_strides[i], a.y_strides[i] = 1, 0, 0
    for i in range(x.ndim):
        a.shape[lead + i] = x.shape[i]
        a.x_strides[lead + i] = x.strides[i] // x.descr.itemsize
        a.y_strides[lead + i] = y.strides[i] // y.descr.itemsize
    a.x, a.y, a.dtype, a.accumulate = data(x), data(y), code(x), accumulate
    call(kKernel_copy, &a)


cdef int rows(int kernel, x, y) except -1:
    cdef RowsArgs a
    a.x, a.y, a.rows, a.cols, a.dtype = data(x), data(y), dims(x)[0], dims(x)[1], code(x)
    return call(kernel, &a)


cdef int rows_backward(int kernel, dy, y, dx) except -1:
    cdef RowsBackwardArgs a
    a.dy, a.y, a.dx, a.rows, a.cols, a.dtype = data(dy), data(y), data(dx), dims(y)[0], dims(y)[1], code(y)
    return call(kernel, &a)


def softmax_forward(x, y):
    rows(kKernel_softmax_forward, x, y)


def softmax_backward(dy, y, dx):
    rows_backward(kKernel_softmax_backward, dy, y, dx)


def log_softmax_forward(x, y):
    rows(kKernel_log_softmax_forward, x, y)


def log_softmax_backward(dy, y, dx):
    rows_backward(kKernel_log_softmax_backward, dy, y, dx)


def cross_entropy(scores, labels, targets, weight, sample_weight, int64_t ignore_index, double label_smoothing,
                  loss, dscores):
    cdef CrossEntropyArgs a
    a.scores, a.labels, a.targets = data(scores), <const int64_t*>data(labels), data(targets)
    a.weight, a.sample_weight, a.loss, a.dscores = data(weight), data(sample_weight), <double*>data(loss), data(dscores)
    a.rows, a.cols, a.dtype = dims(scores)[0], dims(scores)[1], code(scores)
    a.ignore_index, a.label_smoothing = ignore_index, label_smoothing
    call(kKernel_cross_entropy, &a)


def hinge(scores, labels, weight, sample_weight, double margin, int64_t ignore_index, loss, dscores):
    cdef HingeArgs a
    a.scores, a.labels, a.weight = data(scores), <const int64_t*>data(labels), data(weight)
    a.sample_weight, a.loss, a.dscores = data(sample_weight), <double*>data(loss), data(dscores)
    a.rows, a.cols, a.dtype, a.margin = dims(scores)[0], dims(scores)[1], code(scores), margin
    a.ignore_index = ignore_index
    call(kKernel_hinge, &a)


cdef int element_loss(
    int kernel, scores, targets, weight, pos_weight, sample_weight, double delta, loss, dscores
) except -1:
    cdef LossArgs a
    a.weight = data(weight)
    a.scores, a.targets, a.sample_weight, a.pos_weight = data(scores), data(targets), data(sample_weight), data(pos_weight)
    a.loss, a.dscores = <double*>data(loss), data(dscores)
    a.rows, a.cols, a.dtype, a.delta = dims(scores)[0], dims(scores)[1], code(scores), delta
    return call(kernel, &a)


def mse(scores, targets, sample_weight, loss, dscores):
    element_loss(kKernel_mse, scores, targets, None, None, sample_weight, 0.0, loss, dscores)


def l1(scores, targets, sample_weight, loss, dscores):
    element_loss(kKernel_l1, scores, targets, None, None, sample_weight, 0.0, loss, dscores)


def huber(scores, targets, sample_weight, double delta, loss, dscores):
    element_loss(kKernel_huber, scores, targets, None, None, sample_weight, delta, loss, dscores)


def binary_cross_entropy_with_logits(scores, targets, weight, pos_weight, sample_weight, loss, dscores):
    element_loss(
        kKernel_binary_cross_entropy_with_logits, scores, targets, weight, pos_weight, sample_weight, 0.0, loss, dscores
    )


def dropout_forward(x, key, double p, y, mask):
    cdef DropoutArgs a
    a.x, a.key, a.y, a.mask = data(x), <const uint64_t*>data(key), data(y), <uint8_t*>data(mask)
    a.size, a.dtype, a.p = size(x), code(x), p
    call(kKernel_dropout_forward, &a)


def dropout_backward(dy, mask, double p, dx):
    cdef DropoutBackwardArgs a
    a.dy, a.mask, a.dx, a.size, a.dtype, a.p = data(dy), <const uint8_t*>data(mask), data(dx), size(dy), code(dy), p
    call(kKernel_dropout_backward, &a)


def stochastic_depth_forward(x, key, double p, y, mask):
    cdef StochasticDepthArgs a
    a.x, a.key, a.y, a.mask = data(x), <const uint64_t*>data(key), data(y), <uint8_t*>data(mask)
    a.rows, a.cols, a.dtype, a.p = dims(x)[0], dims(x)[1], code(x), p
    call(kKernel_stochastic_depth_forward, &a)


def stochastic_depth_backward(dy, mask, double p, dx):
    cdef StochasticDepthBackwardArgs a
    a.dy, a.mask, a.dx = data(dy), <const uint8_t*>data(mask), data(dx)
    a.rows, a.cols, a.dtype, a.p = dims(dy)[0], dims(dy)[1], code(dy), p
    call(kKernel_stochastic_depth_backward, &a)


def random_bits(key, int64_t size, out):
    cdef RandomBitsArgs a
    a.key, a.out, a.size = <const uint64_t*>data(key), <uint32_t*>data(out), size
    call(kKernel_random_bits, &a)


def batch_norm_forward(x, mean, var, weight, bias, double eps, activation, y):
    cdef BatchNormArgs a
    a.x, a.mean, a.var, a.weight, a.bias, a.y = data(x), data(mean), data(var), data(weight), data(bias), data(y)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.channels_last, a.dtype = last(x, y), code(x)
    a.then, a.eps = ending(activation), eps
    call(kKernel_batch_norm_forward, &a)


def batch_norm_train_forward(x, weight, bias, double eps, residual, bint relu, y, mean, var):
    cdef BatchNormTrainArgs a
    a.x, a.weight, a.bias, a.residual = data(x), data(weight), data(bias), data(residual)
    a.y, a.mean, a.var = data(y), data(mean), data(var)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.channels_last, a.dtype, a.eps, a.relu = last(x, y), code(x), eps, relu
    call(kKernel_batch_norm_train_forward, &a)


def batch_norm_backward(dy, x, mean, var, weight, double eps, bint frozen, y, bint accumulate, dx, dweight, dbias):
    cdef BatchNormBackwardArgs a
    a.dy, a.x, a.mean, a.var, a.weight, a.y = data(dy), data(x), data(mean), data(var), data(weight), data(y)
    a.dx, a.dweight, a.dbias = data(dx), data(dweight), data(dbias)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.channels_last, a.dtype, a.eps, a.frozen, a.accumulate = last(x, dx), code(x), eps, frozen, accumulate
    call(kKernel_batch_norm_backward, &a)


def group_norm_forward(x, weight, bias, int64_t groups, double eps, y, statistics):
    cdef GroupNormArgs a
    a.x, a.weight, a.bias, a.y, a.statistics = data(x), data(weight), data(bias), data(y), <double*>data(statistics)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.groups, a.channels_last, a.dtype, a.eps = groups, last(x, y), code(x), eps
    call(kKernel_group_norm_forward, &a)


def group_norm_backward(dy, x, statistics, weight, int64_t groups, double eps, bint accumulate, dx, dweight, dbias):
    cdef GroupNormBackwardArgs a
    a.dy, a.x, a.statistics, a.weight = data(dy), data(x), <const double*>data(statistics), data(weight)
    a.dx, a.dweight, a.dbias = data(dx), data(dweight), data(dbias)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.groups, a.channels_last, a.dtype, a.eps, a.accumulate = groups, last(x, dx), code(x), eps, accumulate
    call(kKernel_group_norm_backward, &a)


cdef int pool2d(int kernel, x, tuple kernel_size, tuple stride, tuple padding, tuple dilation, bint count_include_pad,
                int64_t divisor, y, argmax) except -1:
    cdef Pool2dArgs a
    a.x, a.y, a.argmax = data(x), data(y), data(argmax)
    a.n, a.c, a.h, a.w, a.oh, a.ow = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3], dims(y)[2], dims(y)[3]
    a.kh, a.kw = kernel_size
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.channels_last, a.dtype, a.count_include_pad, a.divisor = last(x, y), code(x), count_include_pad, divisor
    if is_bf16(x):
        a.channels_last, a.dtype = 1, 2  # kBfloat16
    a.argmax_bytes = 0 if argmax is None else (<cnp.ndarray>argmax).descr.itemsize
    return call(kernel, &a)


cdef int pool2d_backward(int kernel, dy, argmax, tuple kernel_size, tuple stride, tuple padding, tuple dilation,
                         bint count_include_pad, int64_t divisor, dx) except -1:
    cdef Pool2dBackwardArgs a
    a.dy, a.argmax, a.dx = data(dy), data(argmax), data(dx)
    a.n, a.c, a.h, a.w, a.oh, a.ow = dims(dx)[0], dims(dx)[1], dims(dx)[2], dims(dx)[3], dims(dy)[2], dims(dy)[3]
    a.kh, a.kw = kernel_size
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.channels_last, a.dtype, a.count_include_pad, a.divisor = last(dy, dx), code(dy), count_include_pad, divisor
    a.argmax_bytes = 0 if argmax is None else (<cnp.ndarray>argmax).descr.itemsize
    return call(kernel, &a)


def max_pool2d_forward(x, tuple kernel_size, tuple stride, tuple padding, tuple dilation, tuple out_size, y, argmax):
    pool2d(kKernel_max_pool2d_forward, x, kernel_size, stride, padding, dilation, False, 0, y, argmax)


def max_pool2d_backward(dy, argmax, tuple kernel_size, tuple stride, tuple padding, tuple dilation, tuple in_size, dx):
    pool2d_backward(kKernel_max_pool2d_backward, dy, argmax, kernel_size, stride, padding, dilation, False, 0, dx)


def avg_pool2d_forward(x, tuple kernel_size, tuple stride, tuple padding, tuple out_size, bint count_include_pad,
                       int64_t divisor, y):
    pool2d(kKernel_avg_pool2d_forward, x, kernel_size, stride, padding, (1, 1), count_include_pad, divisor, y, None)


def avg_pool2d_backward(dy, tuple kernel_size, tuple stride, tuple padding, bint count_include_pad, int64_t divisor,
                        tuple in_size, dx):
    pool2d_backward(kKernel_avg_pool2d_backward, dy, None, kernel_size, stride, padding, (1, 1), count_include_pad,
                    divisor, dx)


cdef int adaptive_pool2d(int kernel, x, y, argmax) except -1:
    cdef AdaptivePoolArgs a
    a.x, a.y, a.argmax = data(x), data(y), <int64_t*>data(argmax)
    a.n, a.c, a.h, a.w, a.oh, a.ow = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3], dims(y)[2], dims(y)[3]
    a.channels_last, a.dtype = last(x, y), code(x)
    return call(kernel, &a)


cdef int adaptive_pool2d_backward(int kernel, dy, argmax, dx) except -1:
    cdef AdaptivePoolBackwardArgs a
    a.dy, a.argmax, a.dx = data(dy), <const int64_t*>data(argmax), data(dx)
    a.n, a.c, a.h, a.w, a.oh, a.ow = dims(dx)[0], dims(dx)[1], dims(dx)[2], dims(dx)[3], dims(dy)[2], dims(dy)[3]
    a.channels_last, a.dtype = last(dy, dx), code(dy)
    return call(kernel, &a)


def adaptive_max_pool2d_forward(x, tuple out_size, y, argmax):
    adaptive_pool2d(kKernel_adaptive_max_pool2d_forward, x, y, argmax)


def adaptive_max_pool2d_backward(dy, argmax, tuple in_size, dx):
    adaptive_pool2d_backward(kKernel_adaptive_max_pool2d_backward, dy, argmax, dx)


def adaptive_avg_pool2d_forward(x, tuple out_size, y):
    adaptive_pool2d(kKernel_adaptive_avg_pool2d_forward, x, y, None)


def adaptive_avg_pool2d_backward(dy, tuple in_size, dx):
    adaptive_pool2d_backward(kKernel_adaptive_avg_pool2d_backward, dy, None, dx)


def global_avg_pool2d_forward(x, y):
    cdef GlobalPoolArgs a
    a.x, a.y = data(x), data(y)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.channels_last, a.dtype = last(x, x), code(x)
    call(kKernel_global_avg_pool2d_forward, &a)


def global_avg_pool2d_backward(dy, tuple in_size, dx):
    cdef GlobalPoolArgs a
    a.x, a.y = data(dy), data(dx)
    a.n, a.c, a.h, a.w = dims(dx)[0], dims(dx)[1], dims(dx)[2], dims(dx)[3]
    a.channels_last, a.dtype = last(dx, dx), code(dy)
    call(kKernel_global_avg_pool2d_backward, &a)


cdef int conv2d(int kernel, x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups, batch_norm,
                residual, activation, y) except -1:
    cdef Conv2dArgs a
    a.x, a.weight, a.bias, a.residual, a.y = data(x), data(weight), data(bias), data(residual), data(y)
    a.gamma = a.beta = a.mean = a.var = a.packed = NULL
    a.eps = 0.0
    if batch_norm is not None:
        gamma, beta, mean, var, a.eps = batch_norm
        a.gamma, a.beta, a.mean, a.var = data(gamma), data(beta), data(mean), data(var)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.o, a.kh, a.kw, a.oh, a.ow = dims(weight)[0], dims(weight)[2], dims(weight)[3], dims(y)[2], dims(y)[3]
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    # An array that lies in both formats (one channel, one pixel) says C order; then the other decides.
    a.x_last = last(x, y) if dims(x)[1] == 1 or dims(x)[2] * dims(x)[3] == 1 else last(x, x)
    a.y_last = last(x, y) if dims(y)[1] == 1 or dims(y)[2] * dims(y)[3] == 1 else last(y, y)
    a.x_bf16, a.residual_bf16, a.y_bf16 = is_bf16(x), is_bf16(residual), is_bf16(y)
    a.x_last, a.y_last = a.x_last or a.x_bf16, a.y_last or a.y_bf16
    a.groups, a.dtype, a.parts = groups, code(weight), parts()
    a.then = ending(activation)
    return call(kernel, &a)


def conv2d_algorithm(tuple x, tuple weight, tuple y, tuple stride, tuple padding, tuple dilation, int64_t groups,
                     cnp.dtype dtype, int64_t parts):
    """Which algorithm computes a convolution of these shapes, in C order, with so many parts on tiles; by name."""
    cdef Conv2dArgs a
    memset(&a, 0, sizeof(a))
    a.n, a.c, a.h, a.w = x
    a.o, _, a.kh, a.kw = weight
    _, _, a.oh, a.ow = y
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.groups, a.dtype, a.parts = groups, dtype.type_num == cnp.NPY_DOUBLE, parts
    return kernel_algorithm(active_table(), kKernel_conv2d_forward, &a).decode()


def conv2d_forward(x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups, batch_norm,
                   residual, activation, y):
    conv2d(kKernel_conv2d_forward, x, weight, bias, stride, padding, dilation, groups, batch_norm, residual,
           activation, y)


def conv2d_im2col_forward(x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups, batch_norm,
                          residual, activation, y):
    conv2d(kKernel_conv2d_im2col_forward, x, weight, bias, stride, padding, dilation, groups, batch_norm, residual,
           activation, y)


def conv2d_amx_forward(x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups, batch_norm,
                       residual, activation, y):
    conv2d(kKernel_conv2d_amx_forward, x, weight, bias, stride, padding, dilation, groups, batch_norm, residual,
           activation, y)


def conv2d_winograd_forward(x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups, batch_norm,
                            residual, activation, y):
    conv2d(kKernel_conv2d_winograd_forward, x, weight, bias, stride, padding, dilation, groups, batch_norm, residual,
           activation, y)


cdef int inverted_residual(int kernel, x, tuple expand, tuple depthwise, tuple project, tuple stride, tuple padding,
                           residual, tuple activations, y) except -1:
    cdef InvertedResidualArgs a
    first, first_bias = expand or (None, None)
    weight, bias = depthwise
    last_weight, last_bias = project
    a.x, a.expand_weight, a.expand_bias = data(x), data(first), data(first_bias)
    a.depthwise_weight, a.depthwise_bias, a.weight, a.bias = data(weight), data(bias), data(last_weight), data(last_bias)
    a.residual, a.packed, a.y = data(residual), NULL, data(y)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.hidden, a.kh, a.kw = dims(weight)[0], dims(weight)[2], dims(weight)[3]
    a.o, a.oh, a.ow = dims(y)[1], dims(y)[2], dims(y)[3]
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.x_last = last(x, y) if dims(x)[1] == 1 or dims(x)[2] * dims(x)[3] == 1 else last(x, x)
    a.y_last = last(x, y) if dims(y)[1] == 1 or dims(y)[2] * dims(y)[3] == 1 else last(y, y)
    a.dtype, a.parts = code(x), parts()
    a.expand_then, a.depthwise_then, a.then = ending(activations[0]), ending(activations[1]), ending(activations[2])
    return call(kernel, &a)


def inverted_residual_algorithm(tuple x, bint expands, tuple weight, tuple y, tuple stride, tuple padding,
                                tuple activations, cnp.dtype dtype, int64_t parts):
    """Which algorithm computes an inverted residual of these shapes, channels-last, with so many parts on tiles."""
    cdef InvertedResidualArgs a
    memset(&a, 0, sizeof(a))
    a.n, a.c, a.h, a.w = x
    a.hidden, _, a.kh, a.kw = weight
    a.expand_weight = <const void*>&a if expands else NULL
    _, a.o, a.oh, a.ow = y
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.x_last = a.y_last = True
    a.dtype, a.parts = dtype.type_num == cnp.NPY_DOUBLE, parts
    a.expand_then, a.depthwise_then, a.then = ending(activations[0]), ending(activations[1]), ending(activations[2])
    return kernel_algorithm(active_table(), kKernel_inverted_residual_forward, &a).decode()


def inverted_residual_forward(x, expand, tuple depthwise, tuple project, tuple stride, tuple padding, residual,
                              tuple activations, y):
    inverted_residual(kKernel_inverted_residual_forward, x, expand, depthwise, project, stride, padding, residual,
                      activations, y)


def inverted_residual_amx_forward(x, expand, tuple depthwise, tuple project, tuple stride, tuple padding, residual,
                                  tuple activations, y):
    inverted_residual(kKernel_inverted_residual_amx_forward, x, expand, depthwise, project, stride, padding, residual,
                      activations, y)


cdef int conv2d_gradients(int kernel, dy, x, weight, tuple stride, tuple padding, tuple dilation, int64_t groups,
                          bint accumulate, dx, dweight, dbias) except -1:
    cdef Conv2dBackwardArgs a
    a.dy, a.x, a.weight = data(dy), data(x), data(weight)
    a.dx, a.dweight, a.dbias = data(dx), data(dweight), data(dbias)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.o, a.kh, a.kw, a.oh, a.ow = dims(weight)[0], dims(weight)[2], dims(weight)[3], dims(dy)[2], dims(dy)[3]
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.groups, a.channels_last, a.dtype, a.accumulate = groups, last(x, dy), code(x), accumulate
    return call(kernel, &a)


def conv2d_backward(dy, x, weight, tuple stride, tuple padding, tuple dilation, int64_t groups, bint accumulate,
                    dx, dweight, dbias):
    conv2d_gradients(kKernel_conv2d_backward, dy, x, weight, stride, padding, dilation, groups, accumulate, dx, dweight,
                     dbias)


def conv2d_im2col_backward(dy, x, weight, tuple stride, tuple padding, tuple dilation, int64_t groups, bint accumulate,
                           dx, dweight, dbias):
    conv2d_gradients(kKernel_conv2d_im2col_backward, dy, x, weight, stride, padding, dilation, groups, accumulate, dx, dweight,
                     dbias)


def conv2d_amx_backward(dy, x, weight, tuple stride, tuple padding, tuple dilation, int64_t groups, bint accumulate,
                        dx, dweight, dbias):
    conv2d_gradients(kKernel_conv2d_amx_backward, dy, x, weight, stride, padding, dilation, groups, accumulate, dx, dweight,
                     dbias)


def conv_transpose2d_forward(x, weight, bias, tuple stride, tuple padding, tuple dilation, int64_t groups,
                             tuple out_size, activation, y):
    cdef ConvTranspose2dArgs a
    a.x, a.weight, a.bias, a.y = data(x), data(weight), data(bias), data(y)
    a.n, a.c, a.h, a.w = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.o, a.kh, a.kw, a.oh, a.ow = dims(y)[1], dims(weight)[2], dims(weight)[3], dims(y)[2], dims(y)[3]
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.groups, a.channels_last, a.dtype = groups, last(x, y), code(x)
    a.then = ending(activation)
    call(kKernel_conv_transpose2d_forward, &a)


cdef int columns(int kernel, x, image, tuple kernel_size, tuple stride, tuple padding, tuple dilation,
                 y) except -1:
    cdef Im2colArgs a
    a.x, a.y = data(x), data(y)
    a.n, a.c, a.h, a.w = dims(image)[0], dims(image)[1], dims(image)[2], dims(image)[3]
    a.kh, a.kw = kernel_size
    a.stride_h, a.stride_w = stride
    a.pad_h, a.pad_w = padding
    a.dilation_h, a.dilation_w = dilation
    a.oh = (a.h + 2 * a.pad_h - a.dilation_h * (a.kh - 1) - 1) // a.stride_h + 1
    a.ow = (a.w + 2 * a.pad_w - a.dilation_w * (a.kw - 1) - 1) // a.stride_w + 1
    a.dtype = code(x)
    return call(kernel, &a)


def im2col_forward(x, tuple kernel_size, tuple stride, tuple padding, tuple dilation, y):
    columns(kKernel_im2col_forward, x, x, kernel_size, stride, padding, dilation, y)


def col2im_forward(cols, tuple out_size, tuple kernel_size, tuple stride, tuple padding, tuple dilation, x):
    columns(kKernel_col2im_forward, cols, x, kernel_size, stride, padding, dilation, x)


def resample(x, tuple rows, tuple columns, double value, y):
    """x and y of four dimensions, C-contiguous. The tables become constants of a program that is being recorded."""
    cdef ResampleArgs a
    if recorder != NULL:
        for table in (*rows[:3], *columns[:3]):
            (<Program><object>recording).constant(table)
    row_begin, row_index, row_weight = rows[:3] or (None, None, None)
    column_begin, column_index, column_weight = columns[:3] or (None, None, None)
    a.x, a.y, a.row_weight, a.column_weight = data(x), data(y), data(row_weight), data(column_weight)
    a.row_begin, a.row_index = <const int64_t*>data(row_begin), <const int64_t*>data(row_index)
    a.column_begin, a.column_index = <const int64_t*>data(column_begin), <const int64_t*>data(column_index)
    a.outer, a.h, a.w, a.inner = dims(x)[0], dims(x)[1], dims(x)[2], dims(x)[3]
    a.oh, a.ow, a.dtype, a.value = dims(y)[1], dims(y)[2], code(x), value
    a.column_first, a.column_last = columns[3:] or (0, a.ow)
    call(kKernel_resample, &a)


def matmul_forward(a, b, bint transpose_a, bint transpose_b, y):
    """a, b and y of three axes."""
    cdef MatmulArgs q
    q.a, q.b, q.y, q.dtype, q.transpose_a, q.transpose_b = data(a), data(b), data(y), code(y), transpose_a, transpose_b
    q.count, q.m, q.n, q.k = dims(y)[0], dims(y)[1], dims(y)[2], dims(a)[1 if transpose_a else 2]
    call(kKernel_matmul_forward, &q)


def linear_forward(x, weight, bias, activation, y):
    cdef LinearArgs a
    a.x, a.weight, a.bias, a.y = data(x), data(weight), data(bias), data(y)
    a.packed, a.parts = NULL, parts()
    a.rows, a.in_, a.out, a.dtype = dims(x)[0], dims(x)[1], dims(weight)[0], code(x)
    a.then = ending(activation)
    call(kKernel_linear_forward, &a)


def linear_backward(dy, x, weight, bint accumulate, dx, dweight, dbias):
    cdef LinearBackwardArgs a
    a.dy, a.x, a.weight = data(dy), data(x), data(weight)
    a.dx, a.dweight, a.dbias = data(dx), data(dweight), data(dbias)
    a.rows, a.in_, a.out, a.dtype, a.accumulate = dims(x)[0], dims(x)[1], dims(weight)[0], code(x), accumulate
    call(kKernel_linear_backward, &a)


def sgd_step(grad, hyper, segments, param, velocity):
    cdef SgdArgs a
    a.grad, a.hyper, a.segments = data(grad), <const double*>data(hyper), <const double*>data(segments)
    a.param, a.velocity, a.n_segments, a.dtype = data(param), data(velocity), dims(segments)[0], code(param)
    call(kKernel_sgd_step, &a)


def adam_step(grad, hyper, segments, param, m, v):
    cdef AdamArgs a
    a.grad, a.hyper, a.segments = data(grad), <const double*>data(hyper), <const double*>data(segments)
    a.param, a.m, a.v, a.n_segments, a.dtype = data(param), data(m), data(v), dims(segments)[0], code(param)
    call(kKernel_adam_step, &a)


def adagrad_step(grad, hyper, segments, param, sum):
    cdef AdagradArgs a
    a.grad, a.hyper, a.segments = data(grad), <const double*>data(hyper), <const double*>data(segments)
    a.param, a.sum, a.n_segments, a.dtype = data(param), data(sum), dims(segments)[0], code(param)
    call(kKernel_adagrad_step, &a)


def rmsprop_step(grad, hyper, segments, param, square, velocity):
    cdef RmspropArgs a
    a.grad, a.hyper, a.segments = data(grad), <const double*>data(hyper), <const double*>data(segments)
    a.param, a.square, a.velocity = data(param), data(square), data(velocity)
    a.n_segments, a.dtype = dims(segments)[0], code(param)
    call(kKernel_rmsprop_step, &a)


def penalty(param, segments, grad, loss):
    cdef PenaltyArgs a
    a.param, a.segments, a.grad, a.loss = data(param), <const double*>data(segments), data(grad), <double*>data(loss)
    a.n_segments, a.dtype = dims(segments)[0], code(param)
    call(kKernel_penalty, &a)


def square_sum(x, segments, total):
    cdef SquareSumArgs a
    a.x, a.segments, a.total = data(x), <const double*>data(segments), <double*>data(total)
    a.n_segments, a.dtype = dims(segments)[0], code(x)
    call(kKernel_square_sum, &a)


def clip_norm(total, limit, segments, x):
    cdef ClipNormArgs a
    a.total, a.limit = <const double*>data(total), <const double*>data(limit)
    a.segments, a.x, a.n_segments, a.dtype = <const double*>data(segments), data(x), dims(segments)[0], code(x)
    call(kKernel_clip_norm, &a)


def clip_value(limit, segments, x):
    cdef ClipValueArgs a
    a.limit, a.segments, a.x = <const double*>data(limit), <const double*>data(segments), data(x)
    a.n_segments, a.dtype = dims(segments)[0], code(x)
    call(kKernel_clip_value, &a)


def max_norm(segments, param):
    cdef MaxNormArgs a
    a.segments, a.param = <const double*>data(segments), data(param)
    a.n_segments, a.dtype = dims(segments)[0], code(param)
    call(kKernel_max_norm, &a)


# ---- programs ----

@cython.final
cdef class Program:
    """Kernel calls recorded between ``with program:`` and run by ``run``; see csrc/program/program.hpp."""
    cdef CProgram* program
    cdef list kept
    cdef size_t n_inputs, n_outputs
    cdef int64_t parts

    def __cinit__(self, int64_t parts=3):
        self.program = new CProgram()
        self.kept = []
        self.parts = parts

    def __dealloc__(self):
        del self.program

    def __enter__(self):
        global recorder, recording
        if recorder != NULL:
            raise RuntimeError("this thread is recording another program")
        recorder, recording = self.program, <PyObject*>self
        return self

    def __exit__(self, *exception):
        global recorder, recording
        recorder = <CProgram*>NULL
        recording = <PyObject*>NULL
        self.program.finish()

    cdef object bound(self, void* address, tuple shape, cnp.dtype dtype, bint channels_last):
        cdef _Block block = _Block.__new__(_Block)
        if address == NULL:
            raise MemoryError(f"no address space for an array of shape {shape} and dtype {dtype}")
        block.data, block.program = address, self
        strides = _strides(shape, dtype.itemsize, channels_last)
        cdef cnp.npy_intp[32] c_dims
        cdef cnp.npy_intp[32] c_strides
        cdef int i
        for i in range(len(shape)):
            c_dims[i], c_strides[i] = shape[i], strides[i]
        return wrap(block, address, len(shape), c_dims, c_strides, dtype)

    def input(self, tuple shape, cnp.dtype dtype, bint channels_last=False):
        """A stand-in for the next array that every run binds."""
        self.n_inputs += 1
        return self.bound(self.program.add_input(_nbytes(shape, dtype)), shape, dtype, channels_last)

    def output(self, tuple shape, cnp.dtype dtype, bint channels_last=False):
        """A stand-in for the next array that every run writes."""
        self.n_outputs += 1
        return self.bound(self.program.add_output(_nbytes(shape, dtype)), shape, dtype, channels_last)

    def constant(self, cnp.ndarray array, bint final=False):
        """Let recorded calls refer to this array; the program keeps it alive and reads (or writes) it at every run.

        final: it never changes again, and may be laid out anew for the kernels that read it.
        """
        self.kept.append(array)
        self.program.add_constant(array.data, cnp.PyArray_NBYTES(array), final)
        return array

    def run(self, tuple inputs, tuple outputs, cnp.ndarray nanoseconds=None):
        """Bind the arrays (checked by the caller) and run all steps without the interpreter lock."""
        cdef vector[void*] bound
        cdef int64_t* times = <int64_t*>data(nanoseconds)
        if <size_t>len(inputs) != self.n_inputs or <size_t>len(outputs) != self.n_outputs:
            raise ValueError("the program was recorded with another number of inputs or outputs")
        bound.reserve(self.n_inputs + self.n_outputs + 1)
        for array in inputs:
            bound.push_back(data(array))
        for array in outputs:
            bound.push_back(data(array))
        with nogil:
            self.program.run(bound.data(), bound.data() + self.n_inputs, times)

    def release(self):
        """Give back the arenas that no run is using."""
        self.program.release_idle()

    @property
    def steps(self):
        """The kernel of each step, by name."""
        return [kernel_name(self.program.kernel(i)).decode() for i in range(self.program.steps())]

    @property
    def algorithms(self):
        """Of each step the algorithm that its kernel uses; None where it has but one."""
        return [
            None if self.program.algorithm(i) == NULL else self.program.algorithm(i).decode()
            for i in range(self.program.steps())
        ]

    @property
    def step_count(self):
        """How many steps have been recorded so far."""
        return self.program.steps()

    @property
    def arena_bytes(self):
        return self.program.arena_bytes()

    @property
    def isa(self):
        return self.program.isa().decode()


def _nbytes(tuple shape, cnp.dtype dtype):
    n = dtype.itemsize
    for d in shape:
        n *= d
    if n > 1 << 47:  # the most that processors address; more does not fit into a size
        raise MemoryError(f"no address space for an array of shape {shape} and dtype {dtype}")
    return n


def _strides(tuple shape, step, bint channels_last):
    strides = [0] * len(shape)
    for axis in (1, 3, 2, 0) if channels_last else reversed(range(len(shape))):
        strides[axis] = step
        step *= shape[axis]
    return strides


# ---- the machine ----

def isas():
    """{name: None, or why it cannot run here} for every instruction set that was compiled in, best last."""
    cdef const char* why = NULL
    result = {}
    for i in range(table_count()):
        why = cpu_lacks(table_at(i).isa)
        result[table_at(i).isa.decode()] = None if why == NULL else why.decode()
    return result


def isa():
    """The instruction set in use."""
    return active_table().isa.decode()


def set_isa(str name):
    """Use this set (one of isas(), checked by the caller) from now on."""
    cdef bytes encoded = name.encode()
    set_active_table(table_named(encoded))


def num_threads():
    return c_num_threads()


def default_threads():
    """(count, why); a count of 0 says that FASTNN_NUM_THREADS is wrong, and why is the error."""
    cdef const char* why = NULL
    cdef int n = c_default_threads(&why)
    return n, why.decode()


MAX_THREADS = kMaxThreads


def set_num_threads(int n):
    with nogil:
        c_set_num_threads(n)


def cached_bytes():
    """Bytes that the pool holds for reuse."""
    return pool_cached_bytes()


def release_memory():
    with nogil:
        stop_workers()  # their scratch memory goes with them; they start again when next needed
    release_scratch()  # to the pool, what is large
    pool_release()
