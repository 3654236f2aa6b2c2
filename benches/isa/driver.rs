//! A Vulkan device that compiles and runs nothing.
#![allow(unsafe_code, reason = "wgpu has no way to ask a driver what it made of a kernel")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};

use ash::vk;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu_optim::shader::Kernel;

/// What the driver says of a compiled kernel.
pub struct Compiled {
    pub assembly: String,
    pub statistics: HashMap<String, u64>,
}

pub struct Driver {
    // Its functions live as long as it does.
    _entry: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    name: String,
}

fn failed(what: &str) -> impl Fn(vk::Result) -> String {
    move |e| format!("{what}: {e}")
}

fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Driver {
    pub fn new() -> Result<Self, String> {
        // SAFETY: the library's functions are used by Vulkan's rules: what is created is used with its own device, and
        // every structure and slice that a call is handed outlives it.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| format!("no Vulkan loader: {e}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
            let instance = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&instance, None).map_err(failed("instance"))?;
            let adapters = instance.enumerate_physical_devices().map_err(failed("adapters"))?;
            let adapter = *adapters.first().ok_or("no adapter: scripts/isa says which driver this wants")?;
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(adapter, &mut properties);
            let adapter_name = text(&properties.properties.device_name);
            let name = format!("{adapter_name}, {}", text(&driver.driver_info));
            if !adapter_name.contains("RADV") {
                return Err(format!("{adapter_name} is no adapter of RADV: scripts/isa chooses one"));
            }
            let extensions = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let mut wanted =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let device = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut wanted);
            let device = instance.create_device(adapter, &device, None).map_err(failed("device"))?;
            let executables = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { _entry: entry, instance, device, executables, name })
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn compile(&self, kernel: &Kernel) -> Result<Compiled, String> {
        let (words, sets) = spirv(kernel)?;
        let entry = CString::new(kernel.entry).map_err(|e| e.to_string())?;
        // SAFETY: as above. The words are valid SPIR-V, as naga's validator and writer vouch for.
        unsafe {
            let module = vk::ShaderModuleCreateInfo::default().code(&words);
            let module = self.device.create_shader_module(&module, None).map_err(failed("module"))?;
            let layouts = sets.iter().map(|bindings| {
                let layout = vk::DescriptorSetLayoutCreateInfo::default().bindings(bindings);
                self.device.create_descriptor_set_layout(&layout, None).map_err(failed("set"))
            });
            let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            let layout = self.device.create_pipeline_layout(&layout, None).map_err(failed("layout"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&entry);
            let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let pipeline = vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(layout);
            let pipelines = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[pipeline], None);
            let pipeline = pipelines.map_err(|(_, e)| format!("pipeline: {e}"))?[0];
            let compiled = self.look(pipeline);
            self.device.destroy_pipeline(pipeline, None);
            self.device.destroy_pipeline_layout(layout, None);
            layouts.into_iter().for_each(|set| self.device.destroy_descriptor_set_layout(set, None));
            self.device.destroy_shader_module(module, None);
            compiled
        }
    }

    /// # Safety
    /// The pipeline is the device's, and was made to be looked into.
    unsafe fn look(&self, pipeline: vk::Pipeline) -> Result<Compiled, String> {
        let of = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the caller vouches for the pipeline; sizes are asked for before the text is.
        unsafe {
            let found = self.executables.get_pipeline_executable_statistics(&of).map_err(failed("statistics"))?;
            let statistics = found.iter().map(|s| {
                let value = match s.format {
                    vk::PipelineExecutableStatisticFormatKHR::UINT64 => s.value.u64,
                    _ => 0,
                };
                (text(&s.name), value)
            });
            let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            let mut count = 0;
            get(self.device.handle(), &of, &mut count, std::ptr::null_mut()).result().map_err(failed("texts"))?;
            let mut texts = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(self.device.handle(), &of, &mut count, texts.as_mut_ptr()).result().map_err(failed("texts"))?;
            let mut buffers: Vec<Vec<u8>> = texts.iter().map(|t| vec![0; t.data_size]).collect();
            for (text, buffer) in texts.iter_mut().zip(&mut buffers) {
                text.p_data = buffer.as_mut_ptr().cast();
            }
            get(self.device.handle(), &of, &mut count, texts.as_mut_ptr()).result().map_err(failed("texts"))?;
            let assembly = texts.iter().zip(&buffers).find(|(t, _)| text(&t.name).contains("Assembly"));
            let (_, bytes) = assembly.ok_or("the driver gives no assembly")?;
            let assembly = CStr::from_bytes_until_nul(bytes).map_err(|e| e.to_string())?;
            Ok(Compiled { assembly: assembly.to_string_lossy().into_owned(), statistics: statistics.collect() })
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: nothing else uses them any more.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

type Sets = Vec<Vec<vk::DescriptorSetLayoutBinding<'static>>>;

/// The kernel as wgpu hands it to a driver, and the bindings of its sets.
fn spirv(kernel: &Kernel) -> Result<(Vec<u32>, Sets), String> {
    let module = naga::front::wgsl::parse_str(&kernel.source).map_err(|e| e.emit_to_string(&kernel.source))?;
    let validate = |module: &naga::Module| {
        Validator::new(ValidationFlags::all(), Capabilities::all()).validate(module).map_err(|e| format!("{e:?}"))
    };
    let info = validate(&module)?;
    let entry = (naga::ShaderStage::Compute, kernel.entry);
    let constants = kernel.constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, Some(entry), &constants)
        .map_err(|e| e.to_string())?;

    let mut sets: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(place) = variable.binding else { continue };
        let kind = match variable.space {
            naga::AddressSpace::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
            _ => vk::DescriptorType::STORAGE_BUFFER,
        };
        let binding = vk::DescriptorSetLayoutBinding::default()
            .binding(place.binding)
            .descriptor_type(kind)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE);
        sets.entry(place.group).or_default().push(binding);
    }
    let last = sets.keys().last().copied().unwrap_or(0);
    let sets = (0..=last).map(|set| sets.remove(&set).unwrap_or_default()).collect();

    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = naga::back::spv::Options {
        lang_version: (1, 3),
        flags: naga::back::spv::WriterFlags::empty(),
        // As the library builds its own kernels: `trusted` in src/gpu/device/pipelines.rs.
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = naga::back::spv::PipelineOptions {
        shader_stage: naga::ShaderStage::Compute,
        entry_point: kernel.entry.to_owned(),
    };
    let words = naga::back::spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    Ok((words, sets))
}
