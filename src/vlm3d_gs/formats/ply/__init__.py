"""PLY: the splat layout that viewers load, and the compressed one."""
