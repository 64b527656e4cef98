# sluice_embed_presets(TARGET): the textprotos of launch/presets, launch/clusters and launch/published become .cc files in
# TARGET, so that the binary needs no path to find them. Run as a script (cmake -P) it writes one such file.
if(CMAKE_SCRIPT_MODE_FILE)
  set(code "#include \"launch/presets.h\"\n\nnamespace sluice::launch {\n\n")
  string(APPEND code "const std::vector<Preset>& ${FUNCTION}() {\n  static const std::vector<Preset>* const presets =\n")
  string(APPEND code "      new std::vector<Preset>{\n")
  file(GLOB presets ${PRESET_DIR}/*.textproto)
  list(SORT presets)
  foreach(preset ${presets})
    get_filename_component(name ${preset} NAME_WE)
    file(READ ${preset} text)
    string(APPEND code "          {\"${name}\", R\"textproto(${text})textproto\"},\n")
  endforeach()
  string(APPEND code "      };\n  return *presets;\n}\n\n}  // namespace sluice::launch\n")
  file(WRITE ${OUT} "${code}")
  return()
endif()

set(SLUICE_EMBED_PRESETS ${CMAKE_CURRENT_LIST_FILE})

function(sluice_embed_presets target)
  foreach(pair Presets:presets Clusters:clusters PublishedRuns:published)
    string(REPLACE ":" ";" pair ${pair})
    list(GET pair 0 function)
    list(GET pair 1 folder)
    set(dir ${PROJECT_SOURCE_DIR}/launch/${folder})
    set(out ${CMAKE_BINARY_DIR}/${folder}.cc)
    file(GLOB presets CONFIGURE_DEPENDS ${dir}/*.textproto)
    add_custom_command(
      OUTPUT ${out}
      COMMAND ${CMAKE_COMMAND} -DPRESET_DIR=${dir} -DFUNCTION=${function} -DOUT=${out} -P ${SLUICE_EMBED_PRESETS}
      DEPENDS ${presets} ${SLUICE_EMBED_PRESETS})
    target_sources(${target} PRIVATE ${out})
  endforeach()
endfunction()
