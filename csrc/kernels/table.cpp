// The table of one instruction set, made from the list in kernels.hpp. Nothing to edit here.
#include "kernels/kernels.hpp"

#define FASTNN_STRING_(x) #x
#define FASTNN_STRING(x) FASTNN_STRING_(x)
#define FASTNN_TABLE_(isa) table_##isa
#define FASTNN_TABLE(isa) FASTNN_TABLE_(isa)

namespace fastnn {

extern const KernelTable FASTNN_TABLE(FASTNN_ISA);
const KernelTable FASTNN_TABLE(FASTNN_ISA) = {FASTNN_STRING(FASTNN_ISA),
#define FASTNN_ENTRY(name, Args, pointers) FASTNN_ISA::name,
                                              FASTNN_KERNELS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
#define FASTNN_ENTRY(name, Args) FASTNN_ISA::name##_pack,
                                                  FASTNN_PACKERS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
#define FASTNN_ENTRY(name, Args) FASTNN_ISA::name##_algorithm,
                                                      FASTNN_CHOOSERS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
};

}  // namespace fastnn
