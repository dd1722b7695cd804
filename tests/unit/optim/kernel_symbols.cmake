# An object compiled for AVX must define one symbol, its table: any other (an inline function of a header left out of
# line) could be the copy that the linker keeps for the whole program, which then dies on an older processor.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only --extern-only --format=posix ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(STRIP "${symbols}" symbols)
  string(REPLACE "\n" ";" symbols "${symbols}")
  list(LENGTH symbols count)
  if(NOT count EQUAL 1 OR NOT symbols MATCHES "adamw_(scalar|avx2|avx512)")
    message(FATAL_ERROR "${object} defines other symbols than its table: ${symbols}")
  endif()
endforeach()
list(LENGTH OBJECTS count)
if(NOT count EQUAL 3)
  message(FATAL_ERROR "expected three objects, got ${count}")
endif()
