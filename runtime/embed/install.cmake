# What `make install` and the .deb hold: the binary beside the libraries that it opens, the text side that they run and the
# page that reports are made of; public headers, and what find_package(Sluice) reads. LibTorch is not in it: the libraries
# name the one of the build.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
set(SLUICE_INSTALL_FOLDER "${CMAKE_INSTALL_LIBDIR}/sluice" CACHE STRING "Where binary and libraries go, below the prefix")

set(installed sluice sluice_train)
if(TARGET sluice_cuda)
  list(APPEND installed sluice_cuda)
endif()
set_target_properties(${installed} PROPERTIES INSTALL_RPATH "$ORIGIN")
install(TARGETS ${installed} COMPONENT runtime RUNTIME DESTINATION ${SLUICE_INSTALL_FOLDER}
                                               LIBRARY DESTINATION ${SLUICE_INSTALL_FOLDER})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/runtime/text/ DESTINATION ${SLUICE_INSTALL_FOLDER}/text COMPONENT runtime
        FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/runtime/report/ DESTINATION ${SLUICE_INSTALL_FOLDER}/report COMPONENT runtime
        FILES_MATCHING PATTERN "page.*")
if(SLUICE_PLOTLY_JS)
  install(FILES ${SLUICE_PLOTLY_JS} DESTINATION ${SLUICE_INSTALL_FOLDER}/report COMPONENT runtime)
endif()
if(SKBUILD)
  return()  # a wheel needs no more
endif()

file(RELATIVE_PATH from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_PREFIX}/${SLUICE_INSTALL_FOLDER}/sluice)
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/bin_link)
file(CREATE_LINK ${from_bin} ${CMAKE_CURRENT_BINARY_DIR}/bin_link/sluice SYMBOLIC)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bin_link/sluice DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)

install(DIRECTORY sluice/ ${CMAKE_CURRENT_BINARY_DIR}/include/sluice/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sluice
        COMPONENT development FILES_MATCHING PATTERN "*.h")
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/Sluice)
configure_package_config_file(SluiceConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/SluiceConfig.cmake
                              INSTALL_DESTINATION ${package_folder})
# Before 1.0 a minor version may change what programs call.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/SluiceConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/SluiceConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/SluiceConfigVersion.cmake
        DESTINATION ${package_folder} COMPONENT development)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME sluice)
set(CPACK_PACKAGE_CONTACT "The Sluice authors")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Fine-tunes language models that do not fit the machine they are trained on")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "liburing2, libyaml-cpp0.7, libxxhash0, libgomp1, libstdc++6, python3")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_STRIP_FILES ON)
include(CPack)
