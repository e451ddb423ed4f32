// See amx_emulator.hpp. Encodings and operations: Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2.
#include "amx_emulator.hpp"

#include <ucontext.h>

#include <atomic>
#include <cfloat>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace amx_emulator {
namespace {

struct Config {  // as ldtilecfg reads it
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

// A tile's rows beyond its configured shape stay zero.
struct State {
  Config config;
  uint8_t tile[8][16][64];
};
thread_local State t_state;

enum Counter { kConfigure, kRelease, kZero, kLoad, kStore, kDot, kCounters };
std::atomic<int64_t> g_counts[kCounters];

[[noreturn]] void broken(const char* rule) {
  std::fprintf(stderr, "amx_emulator: %s\n", rule);
  std::abort();
}

// ---- arithmetic: float32, to nearest even, denormals are zero going in and coming out ----

float bf16(const uint8_t* p) {
  const uint32_t u = (static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8) << 16;
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}
float flush(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }

float fma_flushed(float a, float b, float c) {
  a = flush(a), b = flush(b), c = flush(c);
  const float r = std::fma(a, b, c);
  // "Tiny" is judged after rounding as if the exponent had no lower end: what only reached the smallest normal number
  // because denormals are spaced wider is tiny too. Scaling up shows it.
  if (std::fabs(r) == FLT_MIN && std::fabs(std::fma(a * 0x1p64f, b, c * 0x1p64f)) < FLT_MIN * 0x1p64f)
    return std::copysign(0.0f, r);
  return flush(r);
}

void dot(uint8_t (*c)[64], const uint8_t (*a)[64], const uint8_t (*b)[64], int rows, int pairs, int columns) {
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < columns; ++n) {
      float sum[2] = {0.0f, 0.0f};
      for (int k = 0; k < pairs; ++k)
        for (int odd = 0; odd < 2; ++odd)
          sum[odd] = fma_flushed(bf16(a[m] + 4 * k + 2 * odd), bf16(b[k] + 4 * n + 2 * odd), sum[odd]);
      float old;
      std::memcpy(&old, c[m] + 4 * n, sizeof old);
      const float r = fma_flushed(old, 1.0f, fma_flushed(sum[0], 1.0f, sum[1]));
      std::memcpy(c[m] + 4 * n, &r, sizeof r);
    }
}

// ---- decoding ----

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct Instruction {  // VEX.128.<prefix>.0F38.W0 <opcode> /r
  int prefix, opcode, mod, reg, rm, vvvv;
  bool sib;
  uint8_t* address;  // of a memory operand, without the index
  int64_t pitch;     // index * scale
  int length;
};
enum Prefix { kNone = 0, k66 = 1, kF3 = 2, kF2 = 3 };

bool decode(const uint8_t* p, const greg_t* registers, Instruction& in) {
  if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) return false;
  const int r = p[1] & 0x80 ? 0 : 8, x = p[1] & 0x40 ? 0 : 8, b = p[1] & 0x20 ? 0 : 8;
  in.vvvv = ~(p[2] >> 3) & 15;
  in.prefix = p[2] & 3;
  in.opcode = p[3];
  in.mod = p[4] >> 6;
  in.reg = (p[4] >> 3 & 7) + r;
  in.rm = (p[4] & 7) + b;
  in.sib = false;
  in.address = nullptr;
  in.pitch = 0;
  in.length = 5;
  if (in.mod == 3) return true;
  int64_t address = 0;
  int base = in.rm;
  bool has_base = true, relative = false;
  if ((in.rm & 7) == 4) {
    const uint8_t sib = p[in.length++];
    const int index = (sib >> 3 & 7) + x;
    in.sib = true;
    if (index != 4) in.pitch = registers[kRegisters[index]] * (int64_t{1} << (sib >> 6));
    base = (sib & 7) + b;
    has_base = !(in.mod == 0 && (sib & 7) == 5);
  } else {
    relative = in.mod == 0 && (in.rm & 7) == 5;
    has_base = !relative;
  }
  if (has_base) address = registers[kRegisters[base]];
  if (in.mod == 1) {
    address += static_cast<int8_t>(p[in.length++]);
  } else if (in.mod == 2 || !has_base) {
    int32_t displacement;
    std::memcpy(&displacement, p + in.length, sizeof displacement);
    address += displacement;
    in.length += 4;
  }
  if (relative) address += registers[REG_RIP] + in.length;
  in.address = reinterpret_cast<uint8_t*>(address);
  return true;
}

// ---- execution ----

int rows_of(int tile) {
  if (t_state.config.palette == 0) broken("a tile instruction, and no tiles are configured");
  if (tile > 7 || t_state.config.rows[tile] == 0) broken("a tile that the configuration leaves out");
  return t_state.config.rows[tile];
}

void configure(const uint8_t* p) {
  Config config;
  std::memcpy(&config, p, sizeof config);
  if (config.palette > 1) broken("ldtilecfg: unknown palette");
  if (config.start_row != 0) broken("ldtilecfg: a start row is not emulated");
  for (uint8_t reserved : config.reserved)
    if (reserved != 0) broken("ldtilecfg: reserved bytes are not zero");
  for (int i = 0; i < 16; ++i) {
    if (i > 7 && (config.rows[i] != 0 || config.row_bytes[i] != 0)) broken("ldtilecfg: there are eight tiles");
    if (config.rows[i] > 16 || config.row_bytes[i] > 64) broken("ldtilecfg: a tile has 16 rows of 64 bytes at most");
    if ((config.rows[i] == 0) != (config.row_bytes[i] == 0)) broken("ldtilecfg: rows without bytes, or the reverse");
  }
  std::memset(&t_state, 0, sizeof t_state);
  if (config.palette == 1) t_state.config = config;
}

void load(int tile, const uint8_t* p, int64_t pitch) {
  const int rows = rows_of(tile);
  std::memset(t_state.tile[tile], 0, sizeof t_state.tile[tile]);
  for (int i = 0; i < rows; ++i) std::memcpy(t_state.tile[tile][i], p + i * pitch, t_state.config.row_bytes[tile]);
}

void store(int tile, uint8_t* p, int64_t pitch) {
  const int rows = rows_of(tile);
  for (int i = 0; i < rows; ++i) std::memcpy(p + i * pitch, t_state.tile[tile][i], t_state.config.row_bytes[tile]);
}

bool run(const Instruction& in) {
  const auto is = [&](int opcode, int prefix) { return in.opcode == opcode && in.prefix == prefix; };
  const auto count = [](Counter c) {
    g_counts[c].fetch_add(1, std::memory_order_relaxed);
    return true;
  };
  const bool unused = in.vvvv == 0;
  if (in.mod != 3 && in.reg == 0 && unused && is(0x49, kNone)) {
    configure(in.address);
    return count(kConfigure);
  }
  if (in.mod != 3 && in.reg == 0 && unused && is(0x49, k66)) {
    std::memcpy(in.address, &t_state.config, sizeof t_state.config);
    return true;
  }
  if (in.mod == 3 && in.reg == 0 && in.rm == 0 && unused && is(0x49, kNone)) {
    std::memset(&t_state, 0, sizeof t_state);
    return count(kRelease);
  }
  if (in.mod == 3 && in.rm == 0 && unused && is(0x49, kF2)) {
    rows_of(in.reg);
    std::memset(t_state.tile[in.reg], 0, sizeof t_state.tile[in.reg]);
    return count(kZero);
  }
  if (in.sib && unused && (is(0x4b, kF2) || is(0x4b, k66))) {
    load(in.reg, in.address, in.pitch);
    return count(kLoad);
  }
  if (in.sib && unused && is(0x4b, kF3)) {
    store(in.reg, in.address, in.pitch);
    return count(kStore);
  }
  if (in.mod == 3 && is(0x5c, kF3)) {
    const int c = in.reg, a = in.rm, b = in.vvvv, rows = rows_of(c), pairs = rows_of(b);
    const uint16_t* bytes = t_state.config.row_bytes;
    if (c == a || c == b || a == b) broken("tdpbf16ps: two operands are one tile");
    if (rows_of(a) != rows || bytes[a] != 4 * pairs || bytes[c] != bytes[b]) broken("tdpbf16ps: shapes do not fit");
    dot(t_state.tile[c], t_state.tile[a], t_state.tile[b], rows, pairs, bytes[c] / 4);
    return count(kDot);
  }
  return false;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Instruction in;
  if (decode(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers, in) && run(in))
    registers[REG_RIP] += in.length;
  else
    std::signal(SIGILL, SIG_DFL);  // and meet it again
}

}  // namespace

void install() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGILL, &action, nullptr) != 0) broken("cannot handle SIGILL");
}

Counts counts() {
  int64_t c[kCounters];
  for (int i = 0; i < kCounters; ++i) c[i] = g_counts[i].load(std::memory_order_relaxed);
  return {c[kConfigure], c[kRelease], c[kZero], c[kLoad], c[kStore], c[kDot]};
}

void reset_counts() {
  for (auto& c : g_counts) c.store(0, std::memory_order_relaxed);
}

bool configured() { return t_state.config.palette != 0; }

}  // namespace amx_emulator
