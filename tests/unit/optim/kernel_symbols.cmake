# An object compiled for one instruction set must define one symbol, its table. Any other (an inline function of a header
# left out of line) could be the copy that the linker keeps for the whole program, which then dies on older processors.
execute_process(COMMAND ${NM} --defined-only --extern-only --format=posix ${OBJECT}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(STRIP "${symbols}" symbols)
string(REPLACE "\n" ";" symbols "${symbols}")
list(LENGTH symbols count)
if(NOT count EQUAL 1 OR NOT symbols MATCHES "${TABLE}")
  message(FATAL_ERROR "${OBJECT} defines other symbols than ${TABLE}: ${symbols}")
endif()
