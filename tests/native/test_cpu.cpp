// Which instruction sets may run: decided on stated facts, so that processors and systems that are not at hand are
// tested too, and once on the facts of this machine.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "check.hpp"
#include "runtime/cpu.hpp"

namespace {

using fastnn::runtime::cpu_facts;
using fastnn::runtime::cpu_lacks;
using fastnn::runtime::cpu_supports;
using fastnn::runtime::CpuFacts;

constexpr uint32_t bit(int i) { return uint32_t{1} << i; }
constexpr const char* kIsas[] = {"scalar", "avx2", "avx512", "amx"};

// A processor with everything under an operating system that saves everything.
constexpr CpuFacts kEverything = {
    .leaf1_ecx = bit(12) | bit(23) | bit(27) | bit(28) | bit(29),                   // FMA POPCNT OSXSAVE AVX F16C
    .leaf7_ebx = bit(3) | bit(5) | bit(8) | bit(16) | bit(17) | bit(30) | bit(31),  // BMI1 AVX2 BMI2 AVX512 F DQ BW VL
    .leaf7_edx = bit(22) | bit(24),                                                 // AMX BF16, tiles
    .leaf7_1_eax = bit(5),                                                          // AVX512 BF16
    .xcr0 = 0x600e6,
};

int g_requests;
bool g_granted;
bool request() {
  ++g_requests;
  return g_granted;
}

// How many of the sets run, best first lost: 4 all, 3 no amx, 2 no avx512, 1 scalar alone. Each set needs the former.
int sets_that_run(const CpuFacts& facts, bool granted) {
  g_granted = granted;
  int count = 0;
  bool lost = false;
  for (const char* isa : kIsas) {
    const char* lacking = cpu_lacks(isa, facts, request);
    CHECK(lacking == nullptr || std::strlen(lacking) > 10, "%s: the reason is no sentence: '%s'", isa, lacking);
    CHECK(!(lost && lacking == nullptr), "%s runs although a set below it does not", isa);
    lost = lost || lacking != nullptr;
    count += lacking == nullptr;
  }
  return count;
}

void every_missing_bit_is_noticed() {
  CHECK(sets_that_run(kEverything, true) == 4, "%s", cpu_lacks("amx", kEverything, request));
  struct Field {
    const char* name;
    uint32_t CpuFacts::*word;
    int first_set_lost_by_bit[32];  // index in kIsas, 0: no set needs this bit
  };
  Field fields[] = {{"leaf 1 ecx", &CpuFacts::leaf1_ecx, {}},
                    {"leaf 7 ebx", &CpuFacts::leaf7_ebx, {}},
                    {"leaf 7 edx", &CpuFacts::leaf7_edx, {}},
                    {"leaf 7.1 eax", &CpuFacts::leaf7_1_eax, {}}};
  for (int i : {12, 23, 28, 29}) fields[0].first_set_lost_by_bit[i] = 1;
  for (int i : {3, 5, 8}) fields[1].first_set_lost_by_bit[i] = 1;
  for (int i : {16, 17, 30, 31}) fields[1].first_set_lost_by_bit[i] = 2;
  for (int i : {22, 24}) fields[2].first_set_lost_by_bit[i] = 3;
  fields[3].first_set_lost_by_bit[5] = 3;
  for (const Field& field : fields)
    for (int i = 0; i < 32; ++i) {
      CpuFacts facts = kEverything;
      facts.*field.word &= ~bit(i);
      const int lost = field.first_set_lost_by_bit[i], runs = sets_that_run(facts, true);
      CHECK(runs == (lost == 0 ? 4 : lost), "%s without bit %d: %d sets run", field.name, i, runs);
    }
}

void registers_that_the_system_does_not_save() {
  for (int i = 0; i < 64; ++i) {
    CpuFacts facts = kEverything;
    facts.xcr0 &= ~(uint64_t{1} << i);
    const int expected = i == 1 || i == 2 ? 1 : i >= 5 && i <= 7 ? 2 : i == 17 || i == 18 ? 3 : 4;
    CHECK(sets_that_run(facts, true) == expected, "without bit %d of XCR0", i);
  }
}

void refused_tile_permission() {
  CHECK(sets_that_run(kEverything, false) == 3, "amx runs without its permission, or another set needs it");
  g_granted = false;
  const char* lacking = cpu_lacks("amx", kEverything, request);
  CHECK(lacking != nullptr && std::strstr(lacking, "permission"), "the reason names something else: %s", lacking);
  // A processor without tiles must not be asked: the request enlarges what every signal has to save.
  CpuFacts no_tiles = kEverything;
  no_tiles.leaf7_edx = 0;
  g_requests = 0;
  for (const char* isa : kIsas) cpu_lacks(isa, no_tiles, request);
  for (const char* isa : {"scalar", "avx2", "avx512"}) cpu_lacks(isa, kEverything, request);
  CHECK(g_requests == 0, "the permission was requested for nothing");
}

// First of all, since the answer of the system is asked for once.
void refused_by_the_environment() {
  const pid_t child = fork();
  if (child == 0) {
    setenv("FASTNN_TEST_REFUSE_TILES", "1", 1);
    _exit(cpu_supports("amx") ? 1 : 0);
  }
  int status;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "amx runs although the tests' refusal is set");
}

void no_x86_at_all() { CHECK(sets_that_run(CpuFacts{}, true) == 1, "something beyond scalar runs on nothing"); }

void unknown_names() {
  for (const char* isa : {"", "avx", "avx5120", "AVX2", "neon9"})
    CHECK(!cpu_supports(isa) && cpu_lacks(isa) != nullptr, "'%s' is no instruction set", isa);
}

void this_machine() {
  CHECK(cpu_supports("scalar"), "scalar must run everywhere");
  for (const char* isa : kIsas) {
    CHECK(cpu_supports(isa) == (cpu_lacks(isa) == nullptr), "%s", isa);
    std::printf("       %s: %s\n", isa, cpu_lacks(isa) ? cpu_lacks(isa) : "runs here");
  }
#if defined(__x86_64__)
  // The compiler's run-time library decides independently.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  CHECK(cpu_supports("avx2") == avx2, "the compiler's library says otherwise");
  CHECK(cpu_supports("avx512") == avx512, "the compiler's library says otherwise");
  CHECK(cpu_facts().xcr0 & 2, "x86-64 systems save the SSE registers");
#endif
}

}  // namespace

int main() {
  return test::run({{"refused_by_the_environment", refused_by_the_environment},
                    {"every_missing_bit_is_noticed", every_missing_bit_is_noticed},
                    {"registers_that_the_system_does_not_save", registers_that_the_system_does_not_save},
                    {"refused_tile_permission", refused_tile_permission},
                    {"no_x86_at_all", no_x86_at_all},
                    {"unknown_names", unknown_names},
                    {"this_machine", this_machine}});
}
