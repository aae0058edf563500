// Two pretended GPUs, cuda:0 and cuda:1, whose memory is the host's.
//
// Every operator of CUDA tensors runs torch's CPU kernel on other tensors of the same memory. Before that it is checked
// that all tensors are on one device, as a GPU demands. Memory is counted as by CUDA's caching allocator, for results
// of operators; the scratch memory within kernels is not seen. Operators that make the CPU wait are reported.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <unistd.h>

#include <array>
#include <mutex>
#include <set>

namespace {

using namespace c10;

constexpr int DEVICES = 2;
constexpr int64_t BLOCK = 512;      // bytes: CUDA's allocator hands out multiples of them
constexpr int64_t SEGMENT = 2 << 20;  // bytes: it reserves multiples of them, and keeps them

thread_local DeviceIndex chosen = 0;  // the current device
pid_t process = 0;                    // which has initialized CUDA; 0: none so far

DeviceIndex exchange_device(DeviceIndex device) { return std::exchange(chosen, device); }

Device gpu(DeviceIndex index) { return Device(kCUDA, index < 0 ? chosen : index); }

// ---- memory

struct Statistic {
  int64_t current = 0, peak = 0, allocated = 0, freed = 0;

  void add(int64_t amount) {
    current += amount;
    peak = std::max(peak, current);
    (amount > 0 ? allocated : freed) += std::abs(amount);
  }
};

struct Memory {
  Statistic blocks, allocated, requested, reserved;  // a number, bytes, bytes, bytes
  int64_t limit = 0;  // bytes that may be reserved; 0: any number
};

std::array<Memory, DEVICES> memories;
std::mutex memory_lock;

int64_t rounded(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

// Keeps the host's memory for a CUDA storage, and counts it.
struct Block {
  Block(Device device, intrusive_ptr<StorageImpl> memory, int64_t bytes)
      : device(device.index()), memory(std::move(memory)), bytes(bytes) {
    std::lock_guard<std::mutex> guard(memory_lock);
    Memory& counts = memories[this->device];
    int64_t reserved = rounded(counts.allocated.current + rounded(bytes, BLOCK), SEGMENT);
    TORCH_CHECK_WITH(OutOfMemoryError, counts.limit == 0 || reserved <= counts.limit,
                     "CUDA out of memory. Tried to allocate ", bytes, " bytes. GPU ", int(device.index()),
                     " allows ", counts.limit, " bytes to this process.");
    if (reserved > counts.reserved.current) counts.reserved.add(reserved - counts.reserved.current);
    count(1);
  }

  ~Block() {
    std::lock_guard<std::mutex> guard(memory_lock);
    count(-1);
  }

  void count(int sign) {
    Memory& counts = memories[device];
    counts.blocks.add(sign);
    counts.requested.add(sign * bytes);
    counts.allocated.add(sign * rounded(bytes, BLOCK));
  }

  DeviceIndex device;
  intrusive_ptr<StorageImpl> memory;
  int64_t bytes;
};

void end_block(void* block) { delete static_cast<Block*>(block); }
void end_storage(void* storage) { intrusive_ptr<StorageImpl>::reclaim(static_cast<StorageImpl*>(storage)); }

// Another storage of the same memory, on another device.
Storage aliased(const Storage& of, Device device) {
  auto memory = of.getWeakStorageImpl().lock();
  void* data = of.mutable_data();
  int64_t bytes = of.nbytes();
  DataPtr pointer = device.is_cuda() && bytes > 0
      ? DataPtr(data, new Block(device, memory, bytes), &end_block, device)
      : DataPtr(data, memory.release(), &end_storage, device);
  bool resizable = bytes == 0;  // the operator itself allocates the results of `out=`
  return make_intrusive<StorageImpl>(
      StorageImpl::use_byte_size_t(), bytes, std::move(pointer), GetCPUAllocator(), resizable);
}

at::Tensor with_storage(const at::Tensor& x, const Storage& storage, DispatchKey key) {
  auto made = at::detail::make_tensor<TensorImpl>(Storage(storage), DispatchKeySet(key), x.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(x.sym_sizes(), x.sym_strides(), x.sym_storage_offset());
  return made;
}

// ---- random numbers

// A generator of a GPU. It holds one of the CPU, which the CPU kernels draw from.
struct Generator final : GeneratorImpl {
  explicit Generator(Device device) : GeneratorImpl(device, DispatchKeySet(DispatchKey::CUDA)) {}
  GeneratorImpl& host() const { return *on_host.unsafeGetGeneratorImpl(); }
  void set_current_seed(uint64_t seed) override { host().set_current_seed(seed); }
  void set_offset(uint64_t offset) override { host().set_offset(offset); }
  uint64_t get_offset() const override { return host().get_offset(); }
  uint64_t current_seed() const override { return host().current_seed(); }
  uint64_t seed() override { return host().seed(); }
  void set_state(const TensorImpl& state) override { host().set_state(state); }
  intrusive_ptr<TensorImpl> get_state() const override { return host().get_state(); }
  GeneratorImpl* clone_impl() const override { TORCH_CHECK(false, "a pretended GPU's generator cannot be cloned"); }

  at::Generator on_host = at::detail::createCPUGenerator();
};

std::array<at::Generator, DEVICES> default_generators;  // of each device the first one made: torch.cuda takes it

at::Generator on_host(const at::Generator& given, Device device) {
  const at::Generator& found = given.defined() ? given : default_generators[device.index()];
  TORCH_CHECK(found.device() == device, "Expected a '", device, "' generator device but found '", found.device(), "'");
  return static_cast<Generator*>(found.unsafeGetGeneratorImpl())->on_host;
}

// ---- what torch asks of a backend

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  std::string showConfig() const override { return ""; }
  DeviceIndex deviceCount() const override { return DEVICES; }
  DeviceIndex getCurrentDevice() const override { return chosen; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return default_generators[gpu(index).index()];
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    auto made = at::make_generator<Generator>(gpu(index));
    at::Generator& first = default_generators[gpu(index).index()];
    if (!first.defined()) first = made;
    return made;
  }
};

struct Guard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device device) const override { return gpu(exchange_device(device.index())); }
  Device getDevice() const override { return gpu(chosen); }
  void setDevice(Device device) const override { chosen = device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override { chosen = device.index(); }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  DeviceIndex deviceCount() const noexcept override { return DEVICES; }
};

// ---- operators

// The arguments of one call, on their GPU and on the CPU.
struct Call {
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs;  // as given, and on the CPU
  std::optional<Device> device;  // the GPU of the arguments
  std::optional<Device> other;   // another device among them; that of a number does not count
  bool mask = false;             // whether one of them is a mask

  at::Tensor to_cpu(const at::Tensor& x) {
    if (!x.defined()) return x;
    note(x);
    for (auto& [given, cpu] : pairs)
      if (given.is_same(x)) return cpu;
    pairs.emplace_back(x, x.is_cuda() ? made_on_cpu(x) : x);
    return pairs.back().second;
  }

  void note(const at::Tensor& x) {
    mask |= x.scalar_type() == kBool || x.scalar_type() == kByte;
    if (x.is_cuda() && !device) device = x.device();
    else if (x.is_cuda() ? x.device() != *device : x.dim() > 0) other = x.device();
  }

  at::Tensor made_on_cpu(const at::Tensor& x) {
    if (x._is_zerotensor()) return at::zeros(x.sizes(), x.options().device(kCPU));
    for (auto& [given, cpu] : pairs)
      if (given.is_cuda() && given.storage().is_alias_of(x.storage()))
        return with_storage(x, cpu.storage(), DispatchKey::CPU);
    return with_storage(x, aliased(x.storage(), kCPU), DispatchKey::CPU);
  }

  at::Tensor to_gpu(const at::Tensor& x) {
    if (!x.defined()) return x;
    for (auto& [given, cpu] : pairs)
      if (cpu.is_same(x)) return given;
    for (auto& [given, cpu] : pairs)
      if (cpu.storage().is_alias_of(x.storage())) return with_storage(x, given.storage(), DispatchKey::CUDA);
    pairs.emplace_back(with_storage(x, aliased(x.storage(), *device), DispatchKey::CUDA), x);
    return pairs.back().first;
  }

  // Resizes the given tensors as the operator has resized those on the CPU, for example by `out=` and `t_()`.
  void follow() {
    for (auto& [given, cpu] : pairs) {
      if (cpu.storage().nbytes() > given.storage().nbytes())
        given.unsafeGetTensorImpl()->set_storage_keep_dtype(aliased(cpu.storage(), given.device()));
      if (given.sizes() != cpu.sizes() || given.strides() != cpu.strides())
        given.unsafeGetTensorImpl()->set_sizes_and_strides(
            cpu.sym_sizes(), cpu.sym_strides(), cpu.sym_storage_offset());
    }
  }
};

template <typename Change>
IValue each_tensor(const IValue& value, Change change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    List<at::Tensor> changed;
    for (const at::Tensor& x : value.toTensorList()) changed.push_back(change(x));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    List<std::optional<at::Tensor>> changed;
    for (std::optional<at::Tensor> x : value.toOptionalTensorList())
      changed.push_back(x ? std::optional(change(*x)) : x);
    return changed;
  }
  return value;
}

// Operators that take tensors of two devices. CUDA copies the indices of the last two.
const std::set<std::string> MIXED{"aten::copy_", "aten::index", "aten::_index_put_impl_"};
// Operators whose result, or its size, the CPU has to know.
const std::set<std::string> WAITING{
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"};
// The one that looks up within its kernel where a mask is set; others call `nonzero`.
const std::string MASKED = "aten::_index_put_impl_";

void (*report_wait)(const char* operation) = nullptr;

void run_on_cpu(const OperatorHandle& op, torch::jit::Stack* stack) {
  TORCH_CHECK(process == 0 || process == getpid(), "CUDA error: initialization error (a forked process)");
  Call call;
  const auto& arguments = op.schema().arguments();
  const size_t start = stack->size() - arguments.size();
  const std::string& name = op.operator_name().name;
  for (size_t at = 0; at < arguments.size(); ++at) {
    IValue& value = (*stack)[start + at];
    if (value.isDevice()) {
      if (value.toDevice().is_cuda() && !call.device) call.device = gpu(value.toDevice().index());
      value = Device(kCPU);
    } else {
      value = each_tensor(value, [&](const at::Tensor& x) { return call.to_cpu(x); });
    }
  }
  const bool mixed = call.device && call.other;
  TORCH_CHECK(!mixed || MIXED.count(name), "Expected all tensors to be on the same device, but found at least two ",
              "devices, ", *call.device, " and ", *call.other, "! (in ", name, " on a pretended GPU)");
  if (report_wait && (mixed || WAITING.count(name) || (call.mask && name == MASKED)))
    report_wait((name + (mixed ? " from another device" : "")).c_str());
  for (size_t at = 0; call.device && at < arguments.size(); ++at) {
    IValue& value = (*stack)[start + at];
    if (arguments[at].name() == "generator")
      value = on_host(value.isNone() ? at::Generator() : value.toGenerator(), *call.device);
  }
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  call.follow();
  if (!call.device) return;
  for (size_t at = stack->size() - op.schema().returns().size(); at < stack->size(); ++at)
    (*stack)[at] = each_tensor((*stack)[at], [&](const at::Tensor& x) { return call.to_gpu(x); });
}

at::Tensor zero_tensor(IntArrayRef size, std::optional<ScalarType> dtype, std::optional<Layout>,
                       std::optional<Device> device, std::optional<bool>) {
  static at::native::ZeroTensorAllocator allocators[DEVICES]{Device(kCUDA, 0), Device(kCUDA, 1)};
  auto& allocator = allocators[gpu(device ? device->index() : -1).index()];
  auto keys = DispatchKeySet({DispatchKey::CUDA, DispatchKey::ZeroTensor});
  return at::detail::empty_generic(size, &allocator, keys, dtype.value_or(kFloat), std::nullopt);
}

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks)  // torch looks for this name
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  for (auto name : {"copy_", "convolution", "convolution_backward"})  // one kernel of torch's serves all devices
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  m.impl("_efficientzerotensor", zero_tensor);
  m.impl("as_strided", at::native::as_strided_tensorimpl);  // these two keep what else a tensor is, as a ZeroTensor
  m.impl("view", at::native::view);
}

// What gpu.py calls through ctypes.
extern "C" {

void pretend_begin(void (*report)(const char* operation)) {
  impl::registerDeviceGuard(kCUDA, new Guard());
  report_wait = report;
}

void pretend_initialize() { process = getpid(); }

int pretend_device() { return chosen; }

int pretend_exchange_device(int device) { return exchange_device(device); }

// The memory of a device: current, peak, allocated and freed of four statistics each.
void pretend_memory(int device, int64_t numbers[16]) {
  std::lock_guard<std::mutex> guard(memory_lock);
  const Memory& counts = memories[device];
  for (const Statistic* one : {&counts.blocks, &counts.allocated, &counts.requested, &counts.reserved})
    for (int64_t number : {one->current, one->peak, one->allocated, one->freed}) *numbers++ = number;
}

void pretend_reset_peak(int device) {
  std::lock_guard<std::mutex> guard(memory_lock);
  Memory& counts = memories[device];
  for (Statistic* one : {&counts.blocks, &counts.allocated, &counts.requested, &counts.reserved})
    one->peak = one->current;
}

void pretend_empty_cache() {
  std::lock_guard<std::mutex> guard(memory_lock);
  for (Memory& counts : memories)
    counts.reserved.add(rounded(counts.allocated.current, SEGMENT) - counts.reserved.current);
}

void pretend_limit(int device, int64_t bytes) {
  std::lock_guard<std::mutex> guard(memory_lock);
  memories[device].limit = bytes;
}
}
