// A device of its own in torch's eyes, whose memory is the processor's: what mixes tensors of both fails as on a GPU.

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <ATen/ATen.h>
#include <torch/library.h>

namespace {

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const c10::Device PLACE(KIND, 0);

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? c10::GetDefaultCPUAllocator()->raw_allocate(bytes) : nullptr;
    return {data, data, &release, PLACE};
  }
  static void release(void* data) {
    if (data) c10::GetDefaultCPUAllocator()->raw_deallocate(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const final { default_copy_data(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory)

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return PLACE; }
  c10::Device getDevice() const override { return PLACE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, PLACE); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
Hooks hooks;
const bool hooked = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

// By the second key torch takes it for a device whose tensors parameters may become and stay the same objects, as they
// do on a GPU; the first is the one that operators are found by.
const c10::DispatchKeySet KEYS =
    c10::DispatchKeySet(c10::DispatchKey::PrivateUse1) | c10::DispatchKeySet(c10::DispatchKey::HPU);

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> type, std::optional<c10::Layout>,
                 std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS,
                                   c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> type,
                         std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS,
                                           c10::dtype_or_default(type));
}

// The same memory as a tensor of the processor's.
at::Tensor here(const at::Tensor& given) {
  if (given.is_cpu()) return given;
  return at::from_blob(given.data_ptr(), given.sizes(), given.strides(), given.options().device(c10::kCPU));
}

std::optional<at::Tensor> here(const std::optional<at::Tensor>& given) {
  return given && given->defined() ? std::optional(here(*given)) : std::nullopt;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  auto target = here(to);
  target.copy_(here(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar scalar(const at::Tensor& given) { return here(given).item(); }

at::Tensor& set_storage(at::Tensor& given, at::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / given.itemsize());
  return at::native::set_storage_cpu_(given, std::move(source), 0, {count}, {});
}

const at::Tensor& resize(const at::Tensor& given, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  if (given.sizes() == size) return given;
  auto* made = given.unsafeGetTensorImpl();
  made->set_sizes_contiguous(size);
  if (format) made->empty_tensor_restride(*format);
  auto* storage = given.storage().unsafeGetStorageImpl();
  const size_t bytes = given.numel() * given.itemsize() + made->storage_offset() * given.itemsize();
  if (bytes > storage->nbytes()) {
    auto larger = memory.allocate(bytes);
    if (storage->nbytes()) memory.copy_data(larger.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(larger));
    storage->set_nbytes(bytes);
  }
  return given;
}

at::Tensor convolution(const at::Tensor& given, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
                       c10::IntArrayRef beside, int64_t groups) {
  return at::convolution(here(given), here(weight), here(bias), stride, padding, dilation, transposed, beside, groups).to(PLACE);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> slopes(
    const at::Tensor& slope, const at::Tensor& given, const at::Tensor& weight, c10::IntArrayRef stride,
    c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed, c10::IntArrayRef beside, int64_t groups,
    std::array<bool, 3> wanted) {
  auto [a, b, c] = at::convolution_backward(here(slope), here(given), here(weight), c10::IntArrayRef({weight.size(0)}),
                                            stride, padding, dilation, transposed, beside, groups, wanted);
  auto there = [](const at::Tensor& made) { return made.defined() ? made.to(PLACE) : made; };
  return {there(a), there(b), there(c)};
}

// Its running statistics are changed in place, which its schema does not say.
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& given, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& mean, const std::optional<at::Tensor>& variance, bool training, double momentum,
    double epsilon) {
  auto [a, b, c] = at::native_batch_norm(here(given), here(weight), here(bias), here(mean), here(variance), training,
                                         momentum, epsilon);
  return {a.to(PLACE), b.to(PLACE), c.to(PLACE)};
}

// torch takes a cell in one piece for granted on accelerators; here it is one that autograd follows.
std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell(
    const at::Tensor& from_input, const at::Tensor& from_hidden, const at::Tensor& state,
    const std::optional<at::Tensor>& input_bias, const std::optional<at::Tensor>& hidden_bias) {
  auto gates = from_input + from_hidden;
  if (input_bias && input_bias->defined()) gates = gates + *input_bias + *hidden_bias;
  auto parts = gates.chunk(4, 1);
  auto next = parts[1].sigmoid() * state + parts[0].sigmoid() * parts[2].tanh();
  return {parts[3].sigmoid() * next.tanh(), next, gates};
}

// Everything else is computed by the processor, and refused where some of it lies elsewhere, as a GPU does.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().operator_name().name;
  const bool positions = name == "aten::index" || name.rfind("aten::index_put", 0) == 0 || name == "aten::_index_put_impl_";
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (!value.isTensor()) continue;
    const auto& tensor = value.toTensor();
    TORCH_CHECK(!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0 || positions,
                name, ": expected all tensors to be on the same device, and one of ", tensor.sizes(), " is on cpu");
  }
  at::native::cpu_fallback(op, stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &slopes);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("_local_scalar_dense", &scalar);
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) { m.impl("_thnn_fused_lstm_cell", &lstm_cell); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
