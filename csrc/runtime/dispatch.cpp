// See dispatch.hpp. The list of instruction sets comes from CMakeLists.txt as FASTNN_HAVE_<ISA>.
#include "runtime/dispatch.hpp"

#include <atomic>
#include <cstddef>
#include <cstring>
#include <type_traits>

namespace fastnn {

#define FASTNN_CHECK(name, Args, pointers)                                                                     \
  static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) % 8 == 0 && sizeof(Args) >= 8 * (pointers), \
                #Args " must be plain data made of 8-byte fields, pointers first");
FASTNN_KERNELS(FASTNN_CHECK)
#undef FASTNN_CHECK

extern const KernelTable table_scalar, table_avx2, table_avx512, table_amx;

namespace runtime {
namespace {

const KernelTable* const kTables[] = {
    &table_scalar,
#ifdef FASTNN_HAVE_AVX2
    &table_avx2,
#endif
#ifdef FASTNN_HAVE_AVX512
    &table_avx512,
#endif
#ifdef FASTNN_HAVE_AMX
    &table_amx,
#endif
};
std::atomic<const KernelTable*> g_active{&table_scalar};

struct Entry {
  const char* name;
  int pointers, size;
  AnyKernel call;
};
constexpr Entry kEntries[] = {
#define FASTNN_ENTRY(name, Args, pointers)          \
  {#name, pointers, static_cast<int>(sizeof(Args)), \
   [](const KernelTable* table, const void* args) { table->name(*static_cast<const Args*>(args)); }},
    FASTNN_KERNELS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
};
constexpr Packer kPackers[] = {
#define FASTNN_ENTRY(name, Args)                                                                               \
  {kKernel_##name, static_cast<int>(offsetof(Args, weight) / 8), static_cast<int>(offsetof(Args, packed) / 8), \
   [](const KernelTable* table, const void* args, void* packed) {                                              \
     return table->name##_pack(*static_cast<const Args*>(args), packed);                                       \
   }},
    FASTNN_PACKERS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
};

struct Chooser {
  int kernel;
  const char* (*algorithm)(const KernelTable*, const void* args);
};
constexpr Chooser kChoosers[] = {
#define FASTNN_ENTRY(name, Args)                                      \
  {kKernel_##name, [](const KernelTable* table, const void* args) {   \
     return table->name##_algorithm(*static_cast<const Args*>(args)); \
   }},
    FASTNN_CHOOSERS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
};

struct ActivationEntry {
  const char* name;
  int parameters;
};
constexpr ActivationEntry kActivations[] = {{"identity", 0},
#define FASTNN_ENTRY(name, parameters, ...) {#name, parameters},
                                            FASTNN_ACTIVATIONS(FASTNN_ENTRY)
#undef FASTNN_ENTRY
};

}  // namespace

int table_count() { return static_cast<int>(sizeof kTables / sizeof *kTables); }
const KernelTable* table_at(int i) { return kTables[i]; }

const KernelTable* table_named(const char* isa) {
  for (const KernelTable* table : kTables)
    if (std::strcmp(table->isa, isa) == 0) return table;
  return nullptr;
}

const KernelTable* active_table() { return g_active.load(std::memory_order_relaxed); }
void set_active_table(const KernelTable* table) { g_active.store(table, std::memory_order_relaxed); }

AnyKernel kernel_call(int id) { return kEntries[id].call; }
const char* kernel_name(int id) { return kEntries[id].name; }
int kernel_pointers(int id) { return kEntries[id].pointers; }
int kernel_args_size(int id) { return kEntries[id].size; }

int kernel_id(const char* name) {
  for (int id = 0; id < kKernelCount; ++id)
    if (std::strcmp(kEntries[id].name, name) == 0) return id;
  return -1;
}

const Packer* packer_of(int kernel) {
  for (const Packer& packer : kPackers)
    if (packer.kernel == kernel) return &packer;
  return nullptr;
}

const char* kernel_algorithm(const KernelTable* table, int kernel, const void* args) {
  for (const Chooser& chooser : kChoosers)
    if (chooser.kernel == kernel) return chooser.algorithm(table, args);
  return nullptr;
}

int activation_count() { return static_cast<int>(sizeof kActivations / sizeof *kActivations); }
const char* activation_name(int activation) { return kActivations[activation].name; }
int activation_parameters(int activation) { return kActivations[activation].parameters; }

}  // namespace runtime
}  // namespace fastnn
