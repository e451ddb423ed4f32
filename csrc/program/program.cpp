// See program.hpp.
#include "program/program.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <new>
#include <tuple>

#include "runtime/pool.hpp"
#include "runtime/team.hpp"

namespace fastnn::program {
namespace {

// Every block of the arena starts on a cache line.
constexpr size_t kAlign = 64;
constexpr size_t kHuge = size_t{2} << 20;
size_t aligned(size_t bytes) { return std::max((bytes + kAlign - 1) / kAlign * kAlign, kAlign); }

}  // namespace

Program::Program() : table_(runtime::active_table()) {}

Program::~Program() {
  release_idle();
  for (const auto& [address, place] : places_) munmap(const_cast<char*>(address), place.bytes);
}

// Address space only: no page of it is ever touched.
void* Program::reserve(size_t bytes, Space space, size_t index, size_t offset) {
  bytes = std::max<size_t>(bytes, 1);
  void* p = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  places_[static_cast<const char*>(p)] = {bytes, space, index, offset};
  return p;
}

void* Program::allocate(size_t bytes) {
  void* p = reserve(bytes, kArena, 0, 0);
  if (p != nullptr) places_[static_cast<const char*>(p)].offset = take_room(aligned(bytes));
  return p;
}

void* Program::add_input(size_t bytes) { return reserve(bytes, kInput, inputs_++, 0); }
void* Program::add_output(size_t bytes) { return reserve(bytes, kOutput, outputs_++, 0); }

void Program::release(void* address) {
  const auto found = places_.find(static_cast<const char*>(address));
  const Place place = found->second;
  places_.erase(found);
  munmap(address, place.bytes);
  if (place.space == kArena) leave_room(place.offset, aligned(place.bytes));
}

// First fit. What lives at the same time never overlaps; what is dead leaves a hole for what comes.
size_t Program::take_room(size_t bytes) {
  for (size_t i = 0; i < holes_.size(); ++i) {
    Hole& hole = holes_[i];
    if (hole.end - hole.begin < bytes) continue;
    const size_t begin = hole.begin;
    hole.begin += bytes;
    if (hole.begin == hole.end) holes_.erase(holes_.begin() + static_cast<std::ptrdiff_t>(i));
    return begin;
  }
  arena_end_ += bytes;
  arena_peak_ = std::max(arena_peak_, arena_end_);
  return arena_end_ - bytes;
}

void Program::leave_room(size_t begin, size_t bytes) {
  const size_t end = begin + bytes;
  auto next = std::lower_bound(holes_.begin(), holes_.end(), begin,
                               [](const Hole& hole, size_t at) { return hole.begin < at; });
  next = holes_.insert(next, Hole{begin, end});
  if (next + 1 != holes_.end() && next->end == (next + 1)->begin) {
    next->end = (next + 1)->end;
    holes_.erase(next + 1);
  }
  if (next != holes_.begin() && (next - 1)->end == next->begin) {
    (next - 1)->end = next->end;
    next = holes_.erase(next) - 1;
  }
  if (next->end == arena_end_) {
    arena_end_ = next->begin;
    holes_.erase(next);
  }
}

void Program::add_constant(const void* data, size_t bytes, bool final) {
  constants_.push_back({static_cast<const char*>(data), std::max<size_t>(bytes, 1), final});
}

// Weights share chunks of whole huge pages, which live as long as any of them.
std::shared_ptr<char> Program::packed_memory(size_t bytes) {
  if (chunk_ == nullptr || bytes > chunk_bytes_ - chunk_used_) {
    const size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
    char* p = static_cast<char*>(runtime::pool_allocate(size));
    if (p == nullptr) throw std::bad_alloc();
    chunk_ = std::shared_ptr<char>(p, [size](char* block) { runtime::pool_free(block, size); });
    chunk_bytes_ = size, chunk_used_ = 0;
  }
  chunk_used_ += bytes;
  return {chunk_, chunk_.get() + chunk_used_ - bytes};
}

// The plans of one network for several batch sizes share what is packed. A weight lives as long as a program that
// packed it, so its address is nobody else's meanwhile; a pack differs by kernel, instruction set and its size.
void Program::pack_weight(int kernel, uint64_t* args) {
  const runtime::Packer* packer = runtime::packer_of(kernel);
  if (packer == nullptr) return;
  const uint64_t weight = args[packer->weight];
  const auto constant = std::find_if(constants_.begin(), constants_.end(), [&](const Constant& one) {
    return one.final && one.holds(reinterpret_cast<const void*>(weight));
  });
  if (constant == constants_.end()) return;
  const int64_t bytes = packer->pack(table_, args, nullptr);
  if (bytes == 0) return;
  static std::mutex mutex;
  static std::map<std::tuple<uint64_t, int, const KernelTable*, int64_t>, std::weak_ptr<char>> known;
  const std::lock_guard lock(mutex);
  std::erase_if(known, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<char>& entry = known[{weight, kernel, table_, bytes}];
  std::shared_ptr<char> packed = entry.lock();
  if (packed == nullptr) {
    packed = packed_memory(aligned(static_cast<size_t>(bytes) + kAlign));  // kernels read whole vectors
    packer->pack(table_, args, packed.get());
    entry = packed;
  }
  args[packer->packed] = reinterpret_cast<uint64_t>(packed.get());
  packed_.push_back(std::move(packed));
}

bool Program::append(int kernel, const void* args) {
  const size_t words = static_cast<size_t>(runtime::kernel_args_size(kernel)) / sizeof(uint64_t);
  const size_t at = args_.size();
  const auto* pointers = static_cast<const void* const*>(args);
  std::vector<Fixup> fixups;
  for (size_t i = 0; i < static_cast<size_t>(runtime::kernel_pointers(kernel)); ++i) {
    const void* p = pointers[i];
    if (p == nullptr) continue;
    const auto after = places_.upper_bound(static_cast<const char*>(p));
    const auto before = after == places_.begin() ? places_.end() : std::prev(after);
    const size_t offset =
        before == places_.end() ? 0 : static_cast<size_t>(static_cast<const char*>(p) - before->first);
    if (before != places_.end() && offset < before->second.bytes) {
      const Place& place = before->second;
      fixups.push_back({at + i, place.space, place.index, place.offset + offset});
    } else if (std::none_of(constants_.begin(), constants_.end(), [p](const Constant& one) { return one.holds(p); })) {
      return false;
    }
  }
  args_.resize(at + words);
  std::memcpy(args_.data() + at, args, words * sizeof(uint64_t));
  pack_weight(kernel, args_.data() + at);
  for (const Fixup& fixup : fixups) (fixup.space == kArena ? arena_fixups_ : bound_fixups_).push_back(fixup);
  steps_.push_back({kernel, runtime::kernel_call(kernel), at});
  return true;
}

size_t Program::arena_size() const {
  return arena_peak_ < kHuge / 2 ? arena_peak_ : (arena_peak_ + kHuge - 1) / kHuge * kHuge;
}

void Program::finish() {
  chunk_.reset();
  constants_.clear();
}

std::unique_ptr<Program::Instance> Program::take_instance() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto instance = std::move(idle_.back());
      idle_.pop_back();
      return instance;
    }
  }
  auto instance = std::make_unique<Instance>();
  instance->args = args_;
  if (arena_peak_ > 0) {
    instance->arena = static_cast<char*>(runtime::pool_allocate(arena_size()));
    if (instance->arena == nullptr) throw std::bad_alloc();
  }
  for (const Fixup& fixup : arena_fixups_)
    instance->args[fixup.at] = reinterpret_cast<uint64_t>(instance->arena + fixup.offset);
  return instance;
}

void Program::run(void* const* inputs, void* const* outputs, int64_t* nanoseconds) {
  std::unique_ptr<Instance> instance = take_instance();
  uint64_t* args = instance->args.data();
  for (const Fixup& fixup : bound_fixups_) {
    void* base = (fixup.space == kInput ? inputs : outputs)[fixup.index];
    args[fixup.at] = reinterpret_cast<uint64_t>(static_cast<char*>(base) + fixup.offset);
  }
  {
    const runtime::Session session;
    if (nanoseconds == nullptr) {
      for (const Step& step : steps_) step.call(table_, args + step.args);
    } else {
      auto before = std::chrono::steady_clock::now();
      for (size_t i = 0; i < steps_.size(); ++i) {
        steps_[i].call(table_, args + steps_[i].args);
        const auto after = std::chrono::steady_clock::now();
        nanoseconds[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(after - before).count();
        before = after;
      }
    }
  }
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(instance));
}

void Program::release_idle() {
  const std::lock_guard lock(mutex_);
  for (const auto& instance : idle_)
    if (instance->arena) runtime::pool_free(instance->arena, arena_size());
  idle_.clear();
}

}  // namespace fastnn::program
