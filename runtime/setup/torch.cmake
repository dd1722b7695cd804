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
