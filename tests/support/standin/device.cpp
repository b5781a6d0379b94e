// A device that is none: its tensors live in host memory, and everything else about them is as on an accelerator.
//
// An operation runs the CPU's kernel on an alias of the same memory, with the same strides, so that its result equals
// the CPU's to the bit. Tensors and generators of two devices in one operation are refused. Every read that would make
// the host wait for a real device is counted, and so is every blocking copy to the device. Memory is counted and can be
// limited, so that it runs out.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kDevices = 2;

// ---- what is counted

std::atomic<int64_t> reads{0}, uploads{0}, allocated{0}, peak{0}, limit{0};
std::mutex mutex;
std::map<std::string, int64_t> readers;  // the operations that read, and how often

void count_read(const std::string& name) {
  ++reads;
  std::lock_guard<std::mutex> lock(mutex);
  ++readers[name];
}

void take(int64_t bytes) {
  const int64_t now = allocated + bytes, most = limit;
  TORCH_CHECK_WITH(
      OutOfMemoryError, most == 0 || now <= most, "standin out of memory: ", now, " bytes wanted, ", most, " are there");
  allocated = now;
  if (now > peak) {
    peak = now;
  }
}

// ---- memory

struct Block {
  at::DataPtr memory;
  int64_t bytes;
};

void give_back(void* context) {
  auto* block = static_cast<Block*>(context);
  allocated -= block->bytes;
  delete block;
}

// Makes memory of the host memory of the device.
at::DataPtr adopt(at::DataPtr memory, int64_t bytes, c10::Device device) {
  take(bytes);
  void* pointer = memory.get();
  return {pointer, new Block{std::move(memory), bytes}, &give_back, device};
}

c10::DeviceIndex& current() {
  static thread_local c10::DeviceIndex index = 0;
  return index;
}

struct Allocator final : c10::DeviceAllocator {
  at::DataPtr allocate(size_t bytes) override {
    return adopt(c10::GetCPUAllocator()->allocate(bytes), static_cast<int64_t>(bytes), {kDevice, current()});
  }
  at::DeleterFnPtr raw_deleter() const override {
    return &give_back;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].current = allocated;
    stats.allocated_bytes[0].peak = peak;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {
    peak = allocated.load();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    const int64_t most = limit == 0 ? int64_t{1} << 40 : limit.load();
    return {static_cast<size_t>(most - allocated), static_cast<size_t>(most)};
  }
};
Allocator allocator;

std::unordered_set<const void*> pinned;

struct Pinned final : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    auto memory = c10::GetCPUAllocator()->allocate(std::max<size_t>(bytes, 1));
    void* pointer = memory.get();
    std::lock_guard<std::mutex> lock(mutex);
    pinned.insert(pointer);
    return {pointer, new at::DataPtr(std::move(memory)), &forget, c10::Device(c10::DeviceType::CPU)};
  }
  static void forget(void* context) {
    auto* memory = static_cast<at::DataPtr*>(context);
    {
      std::lock_guard<std::mutex> lock(mutex);
      pinned.erase(memory->get());
    }
    delete memory;
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Pinned pinned_allocator;

bool is_pinned(const void* pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  return pinned.count(pointer) != 0;
}

// ---- generators, streams, the hooks of torch.accelerator

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(c10::DeviceIndex index) {
    device_ = c10::Device(kDevice, std::max<c10::DeviceIndex>(index, 0));
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
};

const at::Generator& default_generator(c10::DeviceIndex index) {
  static std::array<at::Generator, kDevices> all{at::make_generator<Generator>(0), at::make_generator<Generator>(1)};
  return all.at(index < 0 ? current() : index);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return kDevices;
  }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    current() = index;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current();
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current(), index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current(), index);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index);
  }
  at::Device getDeviceFromPtr(void*) const override {
    return {kDevice, current()};
  }
  bool isPinnedPtr(const void* pointer) const override {
    return is_pinned(pointer);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &pinned_allocator;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const c10::DeviceGuard guard(storage.device());
    at::DataPtr fresh = allocator.allocate(bytes);
    std::memcpy(fresh.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(fresh));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kDevice;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kDevice, std::exchange(current(), device.index())};
  }
  c10::Device getDevice() const override {
    return {kDevice, current()};
  }
  void setDevice(c10::Device device) const override {
    current() = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current() = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, {kDevice, device.index() < 0 ? current() : device.index()});
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return getStream(device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return getStream(device);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return kDevices;
  }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {
    count_read("synchronize a stream");
  }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {
    count_read("synchronize the device");
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// ---- aliases

bool ours(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kDevice;
}

// The same memory as a tensor of the CPU, with the same strides.
at::Tensor on_host(const at::Tensor& tensor) {
  const auto options = tensor.options().device(c10::kCPU).requires_grad(false);
  if (tensor.numel() == 0) {
    return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  }
  auto* impl = tensor.unsafeGetTensorImpl();
  at::Tensor out = at::from_blob(impl->mutable_data(), tensor.sizes(), tensor.strides(), options);
  out._set_conj(tensor.is_conj());
  out._set_neg(tensor.is_neg());
  return out;
}

const at::Tensor& resized(const at::Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(self.device());  // new memory is of the present card
  return at::native::resize_(self, size, format);
}

// A result of the CPU as a tensor of the device; it keeps the memory.
at::Tensor moved(const at::Tensor& tensor, c10::Device device) {
  auto memory = c10::DataPtr(
      tensor.storage().mutable_data(), new c10::Storage(tensor.storage()),
      [](void* context) { delete static_cast<c10::Storage*>(context); }, c10::Device(c10::kCPU));
  const auto bytes = static_cast<int64_t>(tensor.storage().nbytes());
  c10::Storage storage(c10::Storage::use_byte_size_t{}, bytes, adopt(std::move(memory), bytes, device), &allocator, true);
  at::Tensor out = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), tensor.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return out;
}

// ---- every operation that has no kernel of its own below

bool is_mask(const c10::IValue& indices) {
  for (const c10::IValue& one : indices.toListRef()) {
    if (one.isTensor() && one.toTensor().scalar_type() == at::kBool) {
      return true;
    }
  }
  return false;
}

// Operations whose result has a size, or a value on the host, that depends on data.
bool waits(const std::string& name, const std::vector<c10::IValue>& arguments) {
  static const std::unordered_set<std::string> always{
      "aten::nonzero", "aten::masked_select", "aten::equal",    "aten::_unique2",  "aten::unique_dim",
      "aten::unique_consecutive", "aten::bincount", "aten::is_nonzero", "aten::nonzero_static", "aten::histc"};
  if (always.count(name) != 0 || (name == "aten::repeat_interleave" && arguments.size() == 2)) {
    return true;
  }
  // Reading by a mask calls nonzero first; writing a single number by one does not wait.
  return name == "aten::_index_put_impl_" && is_mask(arguments.at(1)) && arguments.at(2).toTensor().numel() > 1;
}

struct Call {
  std::vector<std::pair<at::Tensor, at::Tensor>> aliased;  // of the device, its alias
  at::Generator theirs, stand_in;                          // of the device, of the CPU
  std::optional<c10::Device> device;
  bool host = false;  // a tensor of the CPU with dimensions
  int scalars = 0;    // tensors of the CPU without

  at::Tensor enter(const at::Tensor& tensor) {
    if (!tensor.defined()) {
      return tensor;
    }
    if (!ours(tensor)) {
      (tensor.dim() == 0 ? void(++scalars) : void(host = true));
      return tensor;
    }
    TORCH_CHECK(
        !device || *device == tensor.device(), "Expected all tensors to be on the same device, but found at least two "
        "devices, ", device.value_or(tensor.device()), " and ", tensor.device(), "!");
    device = tensor.device();
    for (const auto& [theirs, other] : aliased) {
      if (theirs.is_same(tensor)) {
        return other;
      }
    }
    aliased.emplace_back(tensor, on_host(tensor));
    return aliased.back().second;
  }

  at::Tensor leave(const at::Tensor& tensor) const {
    if (!tensor.defined() || tensor.device().type() != c10::kCPU) {
      return tensor;
    }
    for (const auto& [theirs, other] : aliased) {
      if (other.is_same(tensor)) {
        return theirs;
      }
    }
    return moved(tensor, device.value_or(c10::Device(kDevice, current())));
  }

  // An operation that made an output larger or gave it other strides has put its result into the alias alone.
  void write_back() const {
    for (const auto& [theirs, other] : aliased) {
      if (theirs.sizes() != other.sizes() || theirs.strides() != other.strides()) {
        resized(theirs, other.sizes(), std::nullopt);
        theirs.unsafeGetTensorImpl()->set_sizes_and_strides(other.sizes(), other.strides());
        on_host(theirs).copy_(other);
      }
    }
  }
};

c10::IValue entered(const c10::IValue& value, Call& call) {
  if (value.isTensor()) {
    return call.enter(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<at::Tensor> out;
    for (const at::Tensor& one : value.toTensorVector()) {
      out.push_back(call.enter(one));
    }
    return out;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> out;
    for (const auto& one : value.toOptionalTensorVector()) {
      out.push_back(one ? std::optional<at::Tensor>(call.enter(*one)) : std::nullopt);
    }
    return out;
  }
  if (value.isDevice() && value.toDevice().type() == kDevice) {
    call.device = value.toDevice().has_index() ? value.toDevice() : c10::Device(kDevice, current());
    return c10::Device(c10::kCPU);
  }
  return value;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto n = schema.arguments().size();
  std::vector<c10::IValue> arguments(stack->end() - static_cast<int64_t>(n), stack->end());
  if (waits(schema.name(), arguments)) {
    count_read(schema.name());
  }
  Call call;
  for (auto& value : arguments) {
    value = entered(value, call);
  }
  const auto& name = schema.name();
  const bool indexes = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  TORCH_CHECK(
      !call.host || indexes || call.aliased.empty(), "Expected all tensors to be on the same device, but found at least two ",
      "devices, ", call.device.value_or(c10::Device(kDevice)), " and cpu! (", name, ")");
  if ((indexes && call.host) || (name == "aten::where" && call.scalars != 0)) {
    ++uploads;
  }
  for (size_t i = 0; i < n; ++i) {
    const auto type = schema.arguments()[i].type();
    if (!type->isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()))) {
      continue;
    }
    if (type->kind() == c10::TypeKind::OptionalType || type->kind() == c10::TypeKind::GeneratorType) {
      call.theirs = arguments[i].isNone() ? default_generator(-1) : arguments[i].toGenerator();
      TORCH_CHECK(
          call.theirs.device().type() == kDevice, "Expected a '", c10::Device(kDevice).str(),
          "' device type for generator but found '", call.theirs.device().str(), "'");
      call.stand_in = at::detail::createCPUGenerator();
      call.stand_in.set_state(call.theirs.get_state());
      arguments[i] = call.stand_in;
    }
  }
  torch::jit::drop(*stack, n);
  for (auto& value : arguments) {
    stack->push_back(std::move(value));
  }
  {
    at::AutoDispatchBelowAutograd below;
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  if (call.theirs.defined()) {
    call.theirs.set_state(call.stand_in.get_state());
  }
  call.write_back();
  const auto results = schema.returns().size();
  for (size_t i = stack->size() - results; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.leave(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> out;
      for (const at::Tensor& one : value.toTensorVector()) {
        out.push_back(call.leave(one));
      }
      value = out;
    }
  }
}

// ---- operations with a kernel of their own

at::Tensor empty(
    at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device> device,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kDevice, current())));
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kDevice, current())));
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  const bool from_device = ours(self), to_device = ours(to);
  if (from_device && !to_device && !(non_blocking && is_pinned(to.storage().data()))) {
    count_read("copy to the host");
  }
  if (!from_device && to_device && !non_blocking) {
    ++uploads;
  }
  at::AutoDispatchBelowAutograd below;
  at::Tensor target = to_device ? on_host(to) : to;
  target.copy_(from_device ? on_host(self) : self);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  resized(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  count_read("item");
  return on_host(self).item();
}

at::Tensor& set_storage(
    at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

at::Tensor& set_whole(at::Tensor& self, at::Storage source) {
  const auto n = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return at::native::set_storage_cpu_(self, std::move(source), 0, {n}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return at::native::set_storage_cpu_(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// Attention from its parts: the fused kernels of the CPU are no business of another device.
int64_t attention(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
    std::optional<double>, bool) {
  return 0;
}

at::Tensor view(const at::Tensor& self, at::IntArrayRef size) {
  return at::native::view(self, size);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &resized);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  // Else torch would ask for kernels of the device's own, and bring the images into another order before.
  m.impl("convolution", torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  m.impl("convolution_backward", torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  m.impl("_fused_sdp_choice", &attention);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

// The products that autocast computes in half precision, as CUDA does.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  KERNEL_PRIVATEUSEONE(conv2d, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(bmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(addmm, lower_precision_fp)
}

TORCH_LIBRARY(standin, m) {
  m.def("reads() -> int", [] { return reads.load(); });
  m.def("uploads() -> int", [] { return uploads.load(); });
  m.def("readers() -> str", [] {
    std::lock_guard<std::mutex> lock(mutex);
    std::string out;
    for (const auto& [name, times] : readers) {
      out += (out.empty() ? "" : ", ") + name + " " + std::to_string(times);
    }
    return out;
  });
  m.def("reset() -> ()", [] {
    reads = uploads = 0;
    std::lock_guard<std::mutex> lock(mutex);
    readers.clear();
  });
  m.def("limit(int bytes) -> ()", [](int64_t bytes) { limit = bytes; });
  m.def("allocated() -> int", [] { return allocated.load(); });
  m.def("activate() -> ()", [] {
    static Hooks hooks;
    c10::SetAllocator(kDevice, &allocator);
    at::RegisterPrivateUse1HooksInterface(&hooks);
  });
}
