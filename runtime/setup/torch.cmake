# LibTorch from the wheel, without its CUDA half: only libtorch_cpu and libc10 are linked, so that start-up
# does not load gigabytes. SLUICE_TORCH_DIR names another LibTorch (the folder that holds include/ and lib/).
if(SLUICE_TORCH)
  if(NOT SLUICE_TORCH_DIR)
    message(FATAL_ERROR "SLUICE_TORCH_DIR is not set. fix: `make build`, or `runtime/setup/with_env cmake ...`, "
                        "or -DSLUICE_TORCH_DIR=<folder with include/ and lib/>")
  endif()
  # The OpenMP runtime that LibTorch brings, and no second one: wheels call it libgomp.so.1, zip files add a hash.
  file(GLOB torch_openmp ${SLUICE_TORCH_DIR}/lib/libgomp*.so*)
  add_library(sluice_torch INTERFACE)
  target_include_directories(sluice_torch SYSTEM INTERFACE
    ${SLUICE_TORCH_DIR}/include ${SLUICE_TORCH_DIR}/include/torch/csrc/api/include)
  target_compile_options(sluice_torch INTERFACE "-ffile-prefix-map=${SLUICE_TORCH_DIR}/=libtorch/")
  target_link_libraries(sluice_torch INTERFACE
    ${SLUICE_TORCH_DIR}/lib/libtorch_cpu.so ${SLUICE_TORCH_DIR}/lib/libc10.so ${torch_openmp})
  target_link_options(sluice_torch INTERFACE -Wl,-rpath,${SLUICE_TORCH_DIR}/lib)
endif()

# The CUDA half, for the library that is opened when a job asks for a GPU. Its kernels are found by name when they are
# called, so that nothing of it is missing at link time: it must be named as needed.
if(SLUICE_TORCH AND SLUICE_CUDA)
  find_package(CUDAToolkit REQUIRED)
  get_filename_component(site_packages ${SLUICE_TORCH_DIR} DIRECTORY)
  find_library(SLUICE_CUBLASLT NAMES libcublasLt.so.13 cublasLt HINTS ${site_packages}/nvidia/cu13/lib
               PATHS ${CUDAToolkit_LIBRARY_DIR} REQUIRED)
  get_filename_component(cublas_folder ${SLUICE_CUBLASLT} DIRECTORY)
  # The runtime that LibTorch loads, and no second one.
  add_library(sluice_cudart INTERFACE)
  target_link_libraries(sluice_cudart INTERFACE CUDA::cudart)
  target_link_options(sluice_cudart INTERFACE -Wl,-rpath,${cublas_folder})
  add_library(sluice_torch_cuda INTERFACE)
  target_include_directories(sluice_torch_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS}
                                                                ${site_packages}/nvidia/cu13/include)
  target_link_libraries(sluice_torch_cuda INTERFACE
    sluice_torch -Wl,--no-as-needed,${SLUICE_TORCH_DIR}/lib/libtorch_cuda.so,--as-needed
    ${SLUICE_TORCH_DIR}/lib/libc10_cuda.so ${SLUICE_CUBLASLT} sluice_cudart)
endif()
