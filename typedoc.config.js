/** How `npm run docs` makes docs/api of the doc comments. */
import { Comment, Converter, ReflectionKind, UnionType } from 'typedoc'

/** Members are described where they are declared, and nowhere else. */
function leaveOutInherited (app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const member of project.getReflectionsByKind(ReflectionKind.All)) {
      if (member.inheritedFrom !== undefined) project.removeReflection(member)
    }
  })
}

/** Says below a union what each of its members means, for which the theme has no place. */
function listUnionMembers (app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const { type, comment } of project.getReflectionsByKind(ReflectionKind.TypeAlias)) {
      if (!(type instanceof UnionType) || type.elementSummaries === undefined) continue
      const members = type.types.map((member, index) =>
        `- \`${member.value}\`: ${Comment.combineDisplayParts(type.elementSummaries[index]).replaceAll('\n', ' ')}`)
      comment.summary.push({ kind: 'text', text: `\n\n${members.join('\n')}` })
    }
  })
}

/** What has a name of its own needs a comment; members of a type without a name are described by that of the whole. */
function excuseUnnamed (app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    const unnamed = project.getReflectionsByKind(ReflectionKind.Property).filter((property) =>
      property.parent.kindOf(ReflectionKind.TypeLiteral) && !property.hasComment() && !isOfParameter(property))
    app.options.setValue('intentionallyNotDocumented', unnamed.map((property) => property.getFriendlyFullName()))
  })
}

function isOfParameter ({ parent }) {
  return parent !== undefined && (parent.kindOf(ReflectionKind.Parameter) || isOfParameter(parent))
}

export default {
  entryPoints: ['index.ts', 'lib/client/index.ts', 'lib/testing/index.ts'],
  plugin: ['typedoc-plugin-markdown', leaveOutInherited, listUnionMembers, excuseUnnamed],
  out: 'docs/api',
  readme: 'none',
  name: 'API',

  // What is published has a comment, and what it names is published, too.
  validation: { notExported: true, invalidLink: true, notDocumented: true },
  treatWarningsAsErrors: true,
  // Types that follow from the schemas of events, by names that say how.
  intentionallyNotExported: [
    'Content', 'DataOf', 'EncodedDataOf', 'EventFor', 'EventOfChannel', 'EventOfSchemas', 'ReceivedFor', 'ReceivedOfChannel',
    'WebStream', 'WithoutId'
  ],

  router: 'module',
  flattenOutputFiles: true,
  disableSources: true,
  skipErrorChecking: true,
  groupOrder: ['Functions', 'Variables', 'Interfaces', 'Classes', '*'],
  hidePageHeader: true,
  hideBreadcrumbs: true,
  useCodeBlocks: true,
  useHTMLAnchors: true,
  parametersFormat: 'table',
  interfacePropertiesFormat: 'table',
  typeDeclarationFormat: 'table'
}
