// The tables that were compiled in, best last, and the one in use.
#pragma once
#include "kernels/kernels.hpp"

namespace fastnn::runtime {

int table_count();
const KernelTable* table_at(int i);           // in order scalar, avx2, avx512, amx
const KernelTable* table_named(const char*);  // nullptr when not compiled in

const KernelTable* active_table();
void set_active_table(const KernelTable*);

// The kernel with this id as a call on untyped arguments: what the binding runs and a program stores.
using AnyKernel = void (*)(const KernelTable*, const void*);
AnyKernel kernel_call(int id);
const char* kernel_name(int id);
int kernel_pointers(int id);  // how many pointers its argument struct begins with
int kernel_args_size(int id);
int kernel_id(const char* name);  // -1 when there is none

// How a kernel's weight is laid out once for many calls (FASTNN_PACKERS); null for a kernel that does not.
struct Packer {
  int kernel;
  int weight, packed;  // the places of these pointers in the argument struct
  int64_t (*pack)(const KernelTable*, const void* args, void* packed);
};
const Packer* packer_of(int kernel);

// Which algorithm of a kernel with several (FASTNN_CHOOSERS) computes a call; null for any other kernel.
const char* kernel_algorithm(const KernelTable*, int kernel, const void* args);

// The list of activations, kIdentity first, by the numbers of the enumeration.
int activation_count();
const char* activation_name(int activation);
int activation_parameters(int activation);

}  // namespace fastnn::runtime
