// A compiled network: a flat list of kernel calls over planned memory, run in one go without Python.
//
// A program is made by recording: while it records, every kernel call that the binding would run is appended instead,
// and arrays are given addresses of their own (a range of address space each, without memory, which is given back when
// the array dies). append() turns every address into (space, offset): a place in the arena, an input or an output. A
// run takes an instance (an arena of its own and argument structs bound to it; several threads may run one program,
// each gets an instance), binds inputs and outputs, and calls. Addresses outside those ranges must belong to registered
// constants; anything else is refused when it is recorded.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/dispatch.hpp"

namespace fastnn::program {

class Program {
 public:
  Program();
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // ---- recording ----
  // Addresses for arrays; nullptr when there is no address space for another.
  void* allocate(size_t bytes);   // a place in the arena
  void* add_input(size_t bytes);  // a stand-in for the array that each run binds
  void* add_output(size_t bytes);
  void release(void* address);  // the array is dead: its place may be used by what is recorded from here on
  // The caller keeps it alive. final: it never changes, so that a weight may be laid out once for all runs.
  void add_constant(const void* data, size_t bytes, bool final);
  bool append(int kernel, const void* args);  // false when a pointer belongs to none of the above
  void finish();

  // ---- running ----
  // inputs and outputs: pointers in the order in which they were added. nanoseconds: null, or one entry a step.
  // Throws std::bad_alloc when there is no memory for another instance.
  void run(void* const* inputs, void* const* outputs, int64_t* nanoseconds = nullptr);
  void release_idle();  // gives back the arenas of instances that are not running

  size_t steps() const { return steps_.size(); }
  int kernel(size_t step) const { return steps_[step].kernel; }
  // Of a kernel that stands for several; null for any other.
  const char* algorithm(size_t step) const {
    return runtime::kernel_algorithm(table_, steps_[step].kernel, args_.data() + steps_[step].args);
  }
  size_t arena_bytes() const { return arena_peak_; }
  const char* isa() const { return table_->isa; }

 private:
  struct Step {
    int kernel;
    runtime::AnyKernel call;
    size_t args;  // offset into args_
  };
  struct Constant {
    const char* begin;
    size_t bytes;
    bool final;  // never changes
    bool holds(const void* p) const { return p >= begin && p < begin + bytes; }
  };
  enum Space { kArena, kInput, kOutput };
  struct Place {
    size_t bytes;
    Space space;
    size_t index;   // which input or output
    size_t offset;  // in the arena
  };
  struct Fixup {
    size_t at;  // offset of the pointer in args_
    Space space;
    size_t index;   // which input or output
    size_t offset;  // from the start of that space
  };
  struct Hole {
    size_t begin, end;
  };
  struct Instance {
    char* arena = nullptr;
    std::vector<uint64_t> args;
  };

  void* reserve(size_t bytes, Space space, size_t index, size_t offset);
  size_t take_room(size_t bytes);
  void leave_room(size_t begin, size_t bytes);
  void pack_weight(int kernel, uint64_t* args);
  std::shared_ptr<char> packed_memory(size_t bytes);
  std::unique_ptr<Instance> take_instance();
  size_t arena_size() const;  // of an instance: whole huge pages from half of one on

  const KernelTable* table_;
  std::map<const char*, Place> places_;  // by address: of the arrays that are alive
  size_t inputs_ = 0, outputs_ = 0;
  std::vector<Constant> constants_;
  std::vector<std::shared_ptr<char>> packed_;  // weights as kernels want them
  std::shared_ptr<char> chunk_;                // where the next ones go
  size_t chunk_bytes_ = 0, chunk_used_ = 0;
  std::vector<Hole> holes_;  // free parts of the arena below arena_end_, sorted, never touching
  size_t arena_end_ = 0, arena_peak_ = 0;
  std::vector<Step> steps_;
  std::vector<uint64_t> args_;
  std::vector<Fixup> arena_fixups_, bound_fixups_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Instance>> idle_;
};

}  // namespace fastnn::program
