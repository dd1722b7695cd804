# `pip install .`: the interpreter that builds is the one that will import, and its torch is the LibTorch. A build that pip
# isolates does not see that torch, but its folder is there all the same.
set(SLUICE_PYTHON ${Python_EXECUTABLE} CACHE FILEPATH "" FORCE)
if(NOT SLUICE_TORCH_DIR)
  set(SLUICE_TORCH_DIR $ENV{SLUICE_TORCH_DIR})
endif()
if(NOT SLUICE_TORCH_DIR)
  execute_process(COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('platlib'))"
                  OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(SLUICE_TORCH_DIR ${site_packages}/torch)
endif()
if(NOT EXISTS ${SLUICE_TORCH_DIR}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "no LibTorch in ${SLUICE_TORCH_DIR}. fix: pip install torch, or set SLUICE_TORCH_DIR")
endif()
